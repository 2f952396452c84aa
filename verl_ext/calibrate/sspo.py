"""SSPO's alpha, beta and gamma from the entropies of segments (arXiv 2511.04256, section 6.2.3).

The paper sets the ranges of its search by the distribution of H_j in a short pilot run and by PPO's width of 0.2:
gamma around typical values of 1 + alpha + H_j, median to high percentile with a small margin; beta to the scale of
1 - H_j, so that the lower bound is neither always nor never capped. The rules here, with q the quantiles of H_j:

    alpha = max(0, 0.2 - q_50)             the typical segment has at least PPO's room above 1
    beta  = min(0.8, 1 - q_50)             and below it; rounded down to a multiple of 0.05, at least 0
    gamma = 1 + alpha + q_90               rounded up to a multiple of 0.05: the margin
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from verl_ext import grouping as grp
from verl_ext.replay.dump import Dump
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.inputs import Prepared
from verl_ext.replay.measure import measure

PPO_WIDTH = 0.2
GRID = 0.05
HIGH = 0.9
# At these equation 14 gives 1 + H itself.
OPEN = {"alpha": 0.0, "beta": 1.0, "gamma": 1e6}


@dataclass(frozen=True)
class Segments:
    """The segments of a dump, [S] each.

    Attributes:
        ratio: s_j.
        entropy: H_j, nats.
        advantage: A_j.
        size: tokens.
    """

    ratio: np.ndarray
    entropy: np.ndarray
    advantage: np.ndarray
    size: np.ndarray

    def quantile(self, share: float) -> float:
        """Of the entropies; every segment counts once."""
        return float(np.quantile(self.entropy, share))

    def bounds(self, alpha: float, beta: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Equations 15 and 14."""
        lower = np.maximum(0, np.minimum(1 - self.entropy, beta))
        return lower, np.minimum(1 + alpha + self.entropy, gamma)

    def clipped(self, alpha: float, beta: float, gamma: float) -> tuple[float, float]:
        """Share of the tokens clipped at the lower and at the upper bound."""
        lower, upper = self.bounds(alpha, beta, gamma)
        low = self.size[(self.advantage < 0) & (self.ratio < lower)].sum()
        high = self.size[(self.advantage > 0) & (self.ratio > upper)].sum()
        return float(low / self.size.sum()), float(high / self.size.sum())


@dataclass(frozen=True)
class Proposal:
    """What is proposed for SSPO.

    Attributes:
        segments: of the dump.
        values: alpha, beta, gamma.
        ranges: parameter -> least and greatest value worth a search.
    """

    segments: Segments
    values: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]

    def shares(self) -> dict[str, float]:
        """Shares of the segments at which each bound is capped."""
        alpha, beta, gamma = self.values["alpha"], self.values["beta"], self.values["gamma"]
        entropy = self.segments.entropy
        return {
            "upper bound is gamma": float(np.mean(1 + alpha + entropy > gamma)),
            "lower bound is beta": float(np.mean(1 - entropy > beta)),
            "no lower bound": float(np.mean(entropy >= 1)),
        }


def segments_of(prepared: Prepared, dump: Dump) -> Segments:
    """Ratios and entropies of segments, as the loss makes them.

    Args:
        prepared: the loss `sspo` with the hyper-parameters `OPEN`.
        dump: the rows.

    Raises:
        ReplayError: the loss does not clip by entropy.
    """
    hyper = prepared.subject.hyper
    if not hyper.get("entropy_clip") or any(hyper.get(name) != value for name, value in OPEN.items()):
        raise ReplayError(["sspo: alpha, beta and gamma are read with entropy_clip=true, and are what calibrate sets"])
    measured = measure(prepared, dump)
    assert measured.ratio is not None
    assert measured.upper is not None
    assert prepared.context.segment_ids is not None
    ids = grp.dense_ids(prepared.context.segment_ids)
    width = dump.mask.shape[1]
    advantages = grp.per_token(grp.group_mean(dump.tensors["advantages"], ids, width), ids)
    numbers = (torch.arange(len(ids))[:, None] * width + ids)[dump.mask].numpy()
    _, first, size = np.unique(numbers, return_index=True, return_counts=True)
    per_token = (measured.ratio, measured.upper - 1, advantages)
    ratio, entropy, advantage = (values[dump.mask].numpy()[first] for values in per_token)
    return Segments(ratio, entropy, advantage, size)


def propose(segments: Segments) -> Proposal:
    """The rules above, and the ranges around them."""
    typical = segments.quantile(0.5)
    alpha = round(max(0.0, PPO_WIDTH - typical), 2)
    beta = round(max(0.0, _down(min(1 - PPO_WIDTH, 1 - typical))), 2)
    gamma = round(_up(1 + alpha + segments.quantile(HIGH)), 2)
    ranges = {
        "alpha": (0.0, PPO_WIDTH),
        "beta": (max(0.0, 1 - segments.quantile(0.75)), max(0.0, 1 - segments.quantile(0.25))),
        "gamma": (1 + alpha + typical, 1 + alpha + segments.quantile(0.95)),
    }
    return Proposal(segments, {"alpha": alpha, "beta": beta, "gamma": gamma}, ranges)


# A multiple of the grid stays one whatever its last bit is.
def _up(value: float) -> float:
    return math.ceil(value / GRID - 1e-9) * GRID


def _down(value: float) -> float:
    return math.floor(value / GRID + 1e-9) * GRID

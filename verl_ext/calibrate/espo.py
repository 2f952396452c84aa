"""ESPO's alpha: the factor between a group's normalised entropy and its clip width (arXiv 2512.00499, section 3.4).

With h the group's mean entropy over log V, a token of the ratio r is clipped where sign(A) (r - 1) > alpha h. So the
critical alpha of a token is sign(A) (r - 1) / h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from verl_ext.calibrate.solving import Solution, clipped_share, solve
from verl_ext.replay.dump import Dump
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.inputs import Prepared
from verl_ext.replay.measure import measure


@dataclass(frozen=True)
class Tokens:
    """The valid tokens of a dump, [N] each.

    Attributes:
        ratio: r, what the loss compares.
        entropy: h, of the token's group, as a share of log V.
        advantage: A.
    """

    ratio: np.ndarray
    entropy: np.ndarray
    advantage: np.ndarray

    @property
    def critical(self) -> np.ndarray:
        """The alpha below which each token is clipped; -inf where none is."""
        excess = np.sign(self.advantage) * (self.ratio - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = excess / self.entropy
        never = np.where(excess > 0, np.inf, -np.inf)  # without entropy there is no width
        return np.where(self.entropy > 0, found, never)

    def clipped(self, alpha: float) -> tuple[float, float]:
        """Share of the tokens clipped at the lower and at the upper bound."""
        low = np.where(self.advantage < 0, self.critical, -np.inf)
        high = np.where(self.advantage > 0, self.critical, -np.inf)
        return clipped_share(low, alpha), clipped_share(high, alpha)

    def width(self, alpha: float) -> float:
        """Mean clip width over the tokens."""
        return alpha * float(self.entropy.mean())


@dataclass(frozen=True)
class Proposal:
    """What is proposed for ESPO.

    Attributes:
        tokens: of the dump.
        solution: alpha, and what there is to say about it.
        aim: what it was solved for, in words.
        target: clipped share that was asked for, where that was the aim.
    """

    tokens: Tokens
    solution: Solution
    aim: str
    target: float | None = None


def tokens_of(prepared: Prepared, dump: Dump) -> Tokens:
    """Ratios and normalised entropies, as the loss makes them.

    Args:
        prepared: the loss `espo` with alpha = 1, at which the clip width is h itself.
        dump: the rows.

    Raises:
        ReplayError: the loss does not clip by entropy.
    """
    hyper = prepared.subject.hyper
    if hyper.get("clip") != "adaptive" or hyper.get("alpha") != 1.0:
        raise ReplayError(["espo: alpha is read with clip=adaptive only, and is what calibrate sets"])
    measured = measure(prepared, dump)
    assert measured.ratio is not None
    assert measured.upper is not None
    mask = dump.mask
    return Tokens(
        measured.ratio[mask].numpy(), (measured.upper[mask] - 1).numpy(), dump.tensors["advantages"][mask].numpy()
    )


def for_target(tokens: Tokens, target: float) -> Proposal:
    """The least alpha that clips no more than a share of the tokens."""
    aim = f"no more than {100 * target:g}% clipped"
    if not (tokens.ratio != 1).any():
        reason = "every ratio is 1, and nothing is clipped at any alpha; take a batch some updates after its rollout"
        return Proposal(tokens, Solution(None, 0.0, reason), aim, target)
    return Proposal(tokens, solve(tokens.critical, target), aim, target)


def for_width(tokens: Tokens, width: float, name: str) -> Proposal:
    """The alpha whose mean clip width over the tokens is another loss's.

    Args:
        tokens: of the dump.
        width: half the distance between that loss's bounds.
        name: of that loss.
    """
    aim = f"the mean clip width of {name}, {width:g}"
    mean = float(tokens.entropy.mean())
    if mean <= 0:
        return Proposal(tokens, Solution(None, 0.0, "every entropy is 0, and with it the width at any alpha"), aim)
    alpha = float(f"{width / mean:.3g}")
    fraction = math.fsum(tokens.clipped(alpha))
    return Proposal(tokens, Solution(alpha, fraction), aim)

"""One loss on one dump: value, gradient with respect to the log-probs, and what was clipped.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_ext import grouping as grp
from verl_ext.context import token_context
from verl_ext.replay.dump import MASK, Dump
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.inputs import Prepared
from verl_ext.run.token_export.evaluation import learning, valued


@dataclass(frozen=True)
class Measured:
    """What a loss made of the dump.

    Attributes:
        label: of the subject.
        loss: its value, normalised as if the dump were one mini-batch.
        gradient: [B, T], of the loss with respect to each log-prob; 0 where the mask is 0.
        ratio: [B, T], what the loss compares with its bounds, or the token's; None where a loss of ours has none.
        lower, upper: [B, T], the bounds, where the loss hands them out.
        clip_low, clip_high: share of the valid tokens clipped at either bound.
        no_gradient: share of the valid tokens with an advantage and without a gradient.
    """

    label: str
    loss: float
    gradient: Tensor
    ratio: Tensor | None
    lower: Tensor | None
    upper: Tensor | None
    clip_low: float
    clip_high: float
    no_gradient: float

    def mean_ratio(self, mask: Tensor) -> float | None:
        """Over the valid tokens."""
        return None if self.ratio is None else float(self.ratio[mask].mean())


def measure(prepared: Prepared, dump: Dump) -> Measured:
    """Call the loss as verl's workers do, forward and backward.

    What counts as clipped, and at which bound, is decided as in a token export (`token_export.evaluation`).

    Args:
        prepared: the loss and its token data.
        dump: the rows, taken as one mini-batch of one rank.

    Raises:
        ReplayError: the loss refuses the batch.
    """
    subject, tensors, mask = prepared.subject, dump.tensors, dump.mask
    subject.actor.global_batch_info.clear()
    subject.actor.global_batch_info.update(
        dp_size=1,
        batch_num_tokens=dump.tokens,
        global_batch_size=len(dump.keys),
        loss_scale_factor=subject.actor.loss_scale_factor,
    )
    arguments = {
        "old_log_prob": tensors["old_log_prob"],
        "log_prob": tensors["log_prob"],
        "advantages": tensors["advantages"],
        "response_mask": tensors[MASK],
        "loss_agg_mode": subject.actor.loss_agg_mode,
        "config": subject.actor,
        "rollout_is_weights": tensors.get("rollout_is_weights"),
    }
    # A loss that draws tokens at random draws the same ones each time.
    with token_context(prepared.context), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            loss, columns = valued(subject.function, arguments)
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise ReplayError([f"{subject.label} refuses this batch: {error}"]) from error
    gradient = -columns["loss_weight"] * mask
    shares = {
        side: int(columns[f"clipped_{side}"].sum()) / dump.tokens if f"clipped_{side}" in columns else 0.0
        for side in ("low", "high")
    }
    return Measured(
        label=subject.label,
        loss=float(loss),
        gradient=gradient,
        ratio=columns.get("ratio"),
        lower=columns.get("lower"),
        upper=columns.get("upper"),
        clip_low=shares["low"],
        clip_high=shares["high"],
        no_gradient=int((learning(arguments) & (gradient == 0)).sum()) / dump.tokens,
    )


def gram(gradients: Sequence[Tensor]) -> Tensor:
    """Scalar products of gradients of any one shape, [L, L] float64."""
    flat = torch.stack([gradient.flatten().double() for gradient in gradients])
    return flat @ flat.T


def cosines(products: Tensor) -> Tensor:
    """Cosine of every pair, from their scalar products [L, L]; NaN where a gradient is 0.

    Example:
        >>> cosines(torch.tensor([[4.0, 2.0], [2.0, 4.0]])).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    norms = products.diagonal().sqrt()
    return (products / (norms[:, None] * norms[None, :])).clamp(-1, 1)


def high_entropy_tokens(entropy: Tensor, mask: Tensor, top: float) -> Tensor:
    """The share `top` of the valid tokens with the highest entropy, of all rows together, [B, T] bool.

    With n valid tokens, those of rank floor((1 - top) n + 0.5) and above; equal entropies in the order of the file.
    """
    groups = grp.entropy_groups(entropy.reshape(1, -1), mask.reshape(1, -1), [1 - top])
    return (groups == 1).reshape(mask.shape)


def share(gradient: Tensor, tokens: Tensor) -> float:
    """What part of the sum of |gradient| lies on these tokens, [B, T] bool; NaN if all of it is 0."""
    sizes = gradient.abs()
    return float(sizes[tokens].sum() / sizes.sum())

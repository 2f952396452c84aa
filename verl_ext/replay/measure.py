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
from verl_ext.losses.common import bounded_exp
from verl_ext.losses.trace import traced
from verl_ext.replay.dump import MASK, Dump
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.inputs import Prepared

# Losses of verl's own that compare a ratio, and of what; ours hand their ratios out.
TOKEN_RATIO = ("vanilla", "cispo", "clip_cov", "kl_cov", "dppo_tv", "dppo_kl", "sapo")
SEQUENCE_RATIO = ("gspo", "geo_mean")


@dataclass(frozen=True)
class Measured:
    """What a loss made of the dump.

    Attributes:
        label: of the subject.
        loss: its value, normalised as if the dump were one mini-batch.
        gradient: [B, T], of the loss with respect to each log-prob; 0 where the mask is 0.
        ratio: [B, T], what the loss compares with its bounds; None for a loss without one.
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

    A loss of ours reports its clipping. For another one a token is clipped low where its advantage is negative, its
    ratio below 1 and its gradient 0, and clipped high where the signs are the others.

    Args:
        prepared: the loss and its token data.
        dump: the rows, taken as one mini-batch of one rank.

    Raises:
        ReplayError: the loss refuses the batch.
    """
    subject, tensors, mask = prepared.subject, dump.tensors, dump.mask
    log_prob = tensors["log_prob"].clone().requires_grad_()
    subject.actor.global_batch_info.clear()
    subject.actor.global_batch_info.update(
        dp_size=1,
        batch_num_tokens=dump.tokens,
        global_batch_size=len(dump.keys),
        loss_scale_factor=subject.actor.loss_scale_factor,
    )
    # A loss that draws tokens at random draws the same ones each time.
    with token_context(prepared.context), traced() as seen, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            loss, metrics = subject.function(
                old_log_prob=tensors["old_log_prob"],
                log_prob=log_prob,
                advantages=tensors["advantages"],
                response_mask=tensors[MASK],
                loss_agg_mode=subject.actor.loss_agg_mode,
                config=subject.actor,
                rollout_is_weights=tensors.get("rollout_is_weights"),
            )
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise ReplayError([f"{subject.label} refuses this batch: {error}"]) from error
    if loss.requires_grad:
        loss.backward()
    gradient = torch.zeros_like(mask, dtype=torch.float64) if log_prob.grad is None else log_prob.grad * mask
    handed = {name: value.expand(mask.shape) for name, value in seen.items()}
    ratio = handed.get("ratio", _ratio(subject.name, dump))
    active = mask & (tensors["advantages"] != 0) & (tensors.get("rollout_is_weights", torch.ones(())) != 0)
    still = active & (gradient == 0)
    low, high = _sides(still, tensors["advantages"], ratio)
    return Measured(
        label=subject.label,
        loss=float(loss.detach()),
        gradient=gradient.detach(),
        ratio=ratio,
        lower=handed.get("lower"),
        upper=handed.get("upper"),
        clip_low=_share(metrics.get("actor/pg_clipfrac_low", low / dump.tokens), dump.tokens),
        clip_high=_share(metrics.get("actor/pg_clipfrac_high", high / dump.tokens), dump.tokens),
        no_gradient=int(still.sum()) / dump.tokens,
    )


def _share(value: float, tokens: int) -> float:
    """A share of the tokens without the rounding of a float32 metric."""
    return round(value * tokens) / tokens


def _ratio(name: str, dump: Dump) -> Tensor | None:
    """The ratio of a loss of verl's own, [B, T]."""
    difference = dump.tensors["log_prob"] - dump.tensors["old_log_prob"]
    if name in TOKEN_RATIO:
        return bounded_exp(difference)
    if name in SEQUENCE_RATIO:
        ids = grp.sequence_groups(dump.mask)
        return bounded_exp(grp.per_token(grp.group_mean(difference, ids, 1), ids))
    return None


def _sides(still: Tensor, advantages: Tensor, ratio: Tensor | None) -> tuple[int, int]:
    """Tokens clipped at the lower and at the upper bound."""
    if ratio is None:
        return 0, 0
    return int((still & (advantages < 0) & (ratio < 1)).sum()), int((still & (advantages > 0) & (ratio > 1)).sum())


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

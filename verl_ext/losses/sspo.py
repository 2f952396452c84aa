"""SSPO: importance ratios and clip bounds shared by the tokens of a sub-sentence.

Subsentence-level Policy Optimization, arXiv 2511.04256: ratio equation 9, entropy of a segment 13, bounds 14 and 15,
objective 16. What the paper leaves open is in docs/methods/sspo.md; segments are made by verl_ext.segments.

Shapes: B rows, T tokens, K segments.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from verl_ext import grouping as grp
from verl_ext.hyper import check_call, flag, number, one_of
from verl_ext.losses import common, slots

AGGREGATIONS = ("seq-mean-token-mean", "token-mean")


def token_data(entropy_clip: bool, **_: object) -> tuple[str, ...]:
    """The fields of `TokenContext` that these options cannot do without."""
    return ("segment_ids",) + ("old_entropy",) * entropy_clip


def sspo_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    segment_ids: Tensor,
    old_entropy: Tensor | None = None,
    entropy_clip: Annotated[bool, flag()] = True,
    alpha: Annotated[float, number(least=0)] = 0.0,
    beta: Annotated[float, number(least=0, most=1)] = 0.8,
    gamma: Annotated[float, number(least=1)] = 1.75,
    clip_ratio_low: Annotated[float, number(least=0)] = 0.2,
    clip_ratio_high: Annotated[float, number(least=0)] = 0.2,
    loss_agg_mode: Annotated[str, one_of(*AGGREGATIONS)] = "seq-mean-token-mean",
    batch: common.GlobalBatch = common.GlobalBatch(),  # noqa: B008 - frozen
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """SSPO's clipped objective, negated (arXiv 2511.04256, equation 16).

        s_j = exp(mean_j d)                              with gradient (9)
        b_high = min(1 + alpha + H_j, gamma)             (14)
        b_low = max(0, min(1 - H_j, beta))               (15)
        J_t = min(s_j A_j, clip(s_j, b_low, b_high) A_j) for each token t of segment j

    d = log_prob - old_log_prob, its mean clamped to [-20, 20]; H_j and A_j are the segment's means of `old_entropy`
    and `advantages`. `seq-mean-token-mean` gives each segment its share |y_ij| / |y_i| of the row, as the paper has it.

    Args:
        old_log_prob, log_prob: [B, T] log pi_old(y_t), log pi_theta(y_t); the latter carries the gradient.
        advantages, response_mask: [B, T]; the mask is bool or 0/1, and where it is 0 nothing else is read.
        segment_ids: [B, T] long, not negative where the mask is set; equal ids in a row are one segment.
        old_entropy: [B, T] nats; needed by `entropy_clip`.
        entropy_clip: bounds of equations 14 and 15; false: 1 - clip_ratio_low and 1 + clip_ratio_high.
        alpha (>= 0), beta (0..1), gamma (>= 1): see above.
        loss_agg_mode: `seq-mean-token-mean` or `token-mean`.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats.

    Raises:
        ValueError: an option out of its range, another aggregation, differing shapes, no `old_entropy`, entropies far
            below 0, or valid tokens without a segment.

    Example:
        >>> import torch
        >>> old, new = torch.log(torch.tensor([[0.5, 0.5, 0.5]])), torch.log(torch.tensor([[0.6, 0.6, 0.5]]))
        >>> segments = torch.tensor([[0, 0, 1]])
        >>> one = torch.ones(1, 3)
        >>> loss, _ = sspo_loss(old, new, one, one, segment_ids=segments, entropy_clip=False, clip_ratio_high=0.1)
        >>> round(loss.item(), 6)  # -(2 * min(1.2, 1.1) + 1) / 3
        -1.066667
    """
    check_call(sspo_loss, locals())
    asked, needed = f"sspo with entropy_clip={entropy_clip}", token_data(entropy_clip=entropy_clip)
    common.check_given(asked, needed, segment_ids=segment_ids, old_entropy=old_entropy)
    with common.full_precision(log_prob.device):
        tokens = common.read_tokens(
            old_log_prob,
            log_prob,
            advantages,
            response_mask,
            segment_ids=segment_ids,
            old_entropy=old_entropy,
            rollout_is_weights=rollout_is_weights,
        )

        def evaluate(ids: Tensor, count: int) -> tuple[Tensor, dict[str, float]]:
            segments = _Segments(tokens.mask, ids, count)
            if old_entropy is not None and entropy_clip:
                lower, upper = _entropy_bounds(segments.mean(tokens.keep(old_entropy)), alpha, beta, gamma)
            else:
                lower, upper = tokens.log_ratio.new_tensor([1 - clip_ratio_low, 1 + clip_ratio_high])
            ratio = common.bounded_exp(segments.mean(tokens.log_ratio))
            objective = slots.objective(tokens, lower, upper, ratio=ratio, units=segments)
            metrics = segments.metrics(ratio.detach(), lower, upper)
            return objective.loss(loss_agg_mode, batch, rollout_is_weights, metrics)

        width = segment_ids.shape[-1]
        loss, metrics = evaluate(segment_ids, min(width, max(width // 4, SURE_SEGMENTS)))
        # Known only now, after the one transfer.
        if metrics.pop(UNFIT):
            loss, metrics = evaluate(_refitted(segment_ids, tokens.mask), width)
            metrics.pop(UNFIT)
    return loss, metrics


# Room for a segment a token would be empty for the most part, so a quarter of it is tried first, and at least this.
SURE_SEGMENTS = 256
# A count that travels with the metrics, so that checking it costs no transfer of its own.
UNFIT = "valid tokens whose segment id is not in 0..K-1"


class _Segments:
    """Reductions over segments, [B, K], 0 for an absent segment."""

    def __init__(self, mask: Tensor, ids: Tensor, count: int) -> None:
        self.slots = ids.clamp(0, max(count - 1, 0))
        self.unfit = ((self.slots != ids) & mask).sum(dtype=torch.int32)
        self.shape = (ids.shape[0], count)
        self.size = self.sum(mask.int())
        self.divisor = self.size.clamp(min=1)

    def sum(self, values: Tensor) -> Tensor:
        """[B, T] -> [B, K]; 0 outside the mask, where the slots mean nothing."""
        return values.new_zeros(self.shape).scatter_add(-1, self.slots, values)

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / self.divisor

    def spread(self, **values: Tensor) -> dict[str, Tensor]:
        """Values of segments, [B, K] or [], at their tokens, [B, T]; what stands outside the mask has no meaning."""
        return {name: value.expand(self.shape).gather(-1, self.slots) for name, value in values.items()}

    def tokens(self, flags: Tensor) -> Tensor:
        """Tokens in the segments that are set in `flags`, [B, K] bool."""
        return (self.size * flags.view(torch.uint8)).sum()

    def metrics(self, ratio: Tensor, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        """Means over the valid tokens; a segment counts with its size."""
        valid = self.size.sum()
        present = self.size.count_nonzero()
        rows = self.size.any(dim=-1).sum()

        def mean(values: Tensor) -> Tensor:
            return (values * self.size).sum() / valid.clamp(min=1)

        return {
            "actor/sspo/ratio": mean(ratio),
            "actor/sspo/eps_low": mean(1 - lower),
            "actor/sspo/eps_high": mean(upper - 1),
            "actor/sspo/segments": present / rows.clamp(min=1),
            "actor/sspo/segment_length": valid / present.clamp(min=1),
            UNFIT: self.unfit,
        }


def _entropy_bounds(entropy: Tensor, alpha: float, beta: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Equations 15 and 14."""
    return (1 - entropy).clamp_(0, beta), (1 + alpha + entropy).clamp_(max=gamma)


def _refitted(ids: Tensor, mask: Tensor) -> Tensor:
    """The same segments with ids below T. Those of verl_ext.segments are; others may have been cut from longer rows."""
    missing = (mask & (ids < 0)).sum()
    if missing:
        raise ValueError(
            f"sspo: {missing} valid tokens have a negative segment id; verl_ext.segments.segment_ids gives every "
            "token of the response mask a segment, so the ids must come from the same mask"
        )
    return grp.dense_ids(ids.masked_fill(~mask, -1))


def own_bounds(*, entropy_clip: bool, **_: object) -> str:
    """The option by which the bounds are the loss's own."""
    return "entropy_clip=true" if entropy_clip else ""

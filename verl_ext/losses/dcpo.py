"""DCPO's dynamic clipping: PPO's term between bounds that follow the old probability of each token.

Dynamic Clipping Policy Optimization, arXiv 2509.02333: bounds equation 4, the cap of 10 for both signs of the advantage
section 2 and appendix A.6. Its advantage needs the rewards of earlier steps and is not here; see docs/methods/dcpo.md.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from verl_ext.hyper import check_call, number, one_of
from verl_ext.losses import common, slots

AGGREGATIONS = common.AGGREGATIONS
# 1/q beyond it does not change a bound: the lower one is 1/2 and the upper one capped long before, and float32 ends.
LEAST_LOG_PROB = -80.0


def dcpo_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    r_max: Annotated[float, number(above=1)] = 10.0,
    clip_ratio_low: Annotated[float, number(least=0)] = 0.16,
    clip_ratio_high: Annotated[float, number(least=0)] = 0.2,
    loss_agg_mode: Annotated[str, one_of(*AGGREGATIONS)] = "seq-mean-token-mean",
    batch: common.GlobalBatch = common.GlobalBatch(),  # noqa: B008 - frozen
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """PPO's clipped objective, negated, with bounds that depend on q = pi_old(y_t) (arXiv 2509.02333, equation 4).

        lower = 1/2 + 1/2 sqrt(max(1 - 4 low / q, 0))
        upper = min(1/2 + 1/2 sqrt(1 + 4 high / q), r_max)
        J_t = max(min(r A, clip(r, lower, upper) A), r_max A if A < 0)

    r = exp(d), d = log_prob - old_log_prob clamped to [-20, 20]. The bounds solve |(r - 1) p| <= eps for p = r q
    (equation 3): a token is clipped by how far its probability moves, not by how far its ratio does.

    Args:
        old_log_prob, log_prob: [B, T] log pi_old(y_t), log pi_theta(y_t); the latter carries the gradient.
        advantages, response_mask: [B, T]; the mask is bool or 0/1, and where it is 0 nothing else is read.
        r_max: greatest ratio for either sign of A, > 1.
        clip_ratio_low, clip_ratio_high: low and high, differences of probabilities.
        loss_agg_mode: any of verl's; `seq-mean-token-mean` is equation 8 up to the constant 1/G.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats.

    Raises:
        ValueError: an option out of its range, an unknown aggregation, or differing shapes.

    Example:
        >>> import torch
        >>> old, new = torch.log(torch.tensor([[0.1, 0.1]])), torch.log(torch.tensor([[0.15, 0.3]]))
        >>> loss, _ = dcpo_loss(old, new, torch.ones(1, 2), torch.ones(1, 2))
        >>> round(loss.item(), 6)  # upper = (1 + sqrt(1 + 0.8 / 0.1)) / 2 = 2: ratios 1.5 and 3 -> 2
        -1.75
    """
    check_call(dcpo_loss, locals())
    with common.full_precision(log_prob.device):
        tokens = common.read_tokens(
            old_log_prob, log_prob, advantages, response_mask, rollout_is_weights=rollout_is_weights
        )
        lower, upper = _bounds(tokens.old_log_prob, clip_ratio_low, clip_ratio_high, r_max)
        valid = tokens.mask.sum().clamp(min=1)
        metrics = {
            "actor/dcpo/lower": (lower * tokens.mask).sum() / valid,
            "actor/dcpo/upper": (upper * tokens.mask).sum() / valid,
            "actor/dcpo/capped": ((upper == r_max) & tokens.mask).sum() / valid,
        }
        objective = slots.objective(tokens, lower, upper, dual_clip=r_max)
        return objective.loss(loss_agg_mode, batch, rollout_is_weights, metrics)


def _bounds(old_log_prob: Tensor, low: float, high: float, r_max: float) -> tuple[Tensor, Tensor]:
    """Least and greatest ratio of each token, equation 4, [B, T] each."""
    inverse = (-old_log_prob.clamp(min=LEAST_LOG_PROB)).exp()
    lower = 0.5 + 0.5 * (1 - 4 * low * inverse).clamp(min=0).sqrt()
    upper = 0.5 + 0.5 * (1 + 4 * high * inverse).sqrt()
    return lower, upper.clamp(max=r_max)

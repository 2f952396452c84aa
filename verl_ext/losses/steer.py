"""STEER: PPO's term, weighted down on the tokens that would move the policy's entropy the most.

arXiv 2510.10150, which the TEPO paper (arXiv 2604.12736) runs as a baseline under the name STEEL. What is left open is
in docs/methods/steer.md.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from verl_ext.hyper import check_call, number, one_of
from verl_ext.losses import common, slots

MAPPINGS = ("exponential", "linear")
SCOPES = ("row", "micro_batch")
AGGREGATIONS = common.AGGREGATIONS
# Below it the greatest |Omega| is noise, and scaling by it would weight tokens down that change nothing.
LEAST_CHANGE = 0.02


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Faults between hyper-parameters that are each in range."""
    faults = []
    least, greatest = values.get("w_min"), values.get("w_max")
    if least is not None and greatest is not None and least > greatest:
        faults.append(f"w_min={least:g} must be <= w_max={greatest:g}")
    if least is not None and least > 1 and values.get("mapping") == "exponential":
        faults.append(f"w_min={least:g} must be <= 1 with mapping=exponential")
    return faults


def steer_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    entropy: Tensor,
    mapping: Annotated[str, one_of(*MAPPINGS)] = "exponential",
    scope: Annotated[str, one_of(*SCOPES)] = "row",
    w_min: Annotated[float, number(above=0)] = 0.8,
    w_max: Annotated[float, number(above=0)] = 1.0,
    clip_ratio_low: Annotated[float, number(least=0)] = 0.2,
    clip_ratio_high: Annotated[float, number(least=0)] = 0.2,
    clip_ratio_c: Annotated[float, number(above=1)] = 3.0,
    loss_agg_mode: Annotated[str, one_of(*AGGREGATIONS)] = "token-mean",
    batch: common.GlobalBatch = common.GlobalBatch(),  # noqa: B008 - frozen
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """verl's `vanilla` loss, each token weighted by the entropy change it is estimated to cause (arXiv 2510.10150).

        Omega_t = A_t exp(d_t) (1 - p_t) (log p_t + H_t),  p_t = exp(log_prob)
        w_t = max(w_min, exp(-k |Omega_t|)),  k = -log(w_min) / max(max |Omega|, 0.02)    `exponential`
              from w_max at the least |Omega| down to w_min at the greatest, linearly     `linear`
        J_t = w_t * max(min(r A, clip(r, 1 - low, 1 + high) A), c A if A < 0)

    r = exp(d), d = log_prob - old_log_prob clamped to [-20, 20]; weights carry no gradient. The least and the greatest
    |Omega| are those of the row (`scope=row`) or of all rows of this call (`scope=micro_batch`, whose value depends on
    the size of the micro-batch). Equal |Omega| give w_max under `linear`.

    Args:
        old_log_prob, log_prob: [B, T] log pi_old(y_t), log pi_theta(y_t); the latter carries the gradient.
        advantages, response_mask: [B, T]; the mask is bool or 0/1, and where it is 0 nothing else is read.
        entropy: [B, T] nats, of the current policy.
        mapping, scope: see above.
        w_min, w_max: 0 < w_min <= w_max; `exponential` reads w_min alone, at most 1.
        clip_ratio_low, clip_ratio_high, clip_ratio_c: low, high and c.
        loss_agg_mode: any of verl's.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats.

    Raises:
        ValueError: an option out of its range, differing shapes, or entropies far below 0.

    Example:
        >>> import torch
        >>> log_prob, entropy = torch.log(torch.tensor([[0.5, 0.5]])), torch.tensor([[0.693, 3.0]])
        >>> one = torch.ones(1, 2)
        >>> loss, _ = steer_loss(log_prob, log_prob, one, one, entropy=entropy)
        >>> round(loss.item(), 3)  # weights 1 and 0.8: the first token's log p + H is 0, the second's the greatest
        -0.9
    """
    check_call(steer_loss, locals(), contradictions)
    with common.full_precision(log_prob.device):
        tokens = common.read_tokens(
            old_log_prob,
            log_prob,
            advantages,
            response_mask,
            entropy=entropy,
            rollout_is_weights=rollout_is_weights,
        )
        tokens, metrics = _weighted(tokens, entropy, mapping, scope, w_min, w_max)
        objective = slots.objective(tokens, 1 - clip_ratio_low, 1 + clip_ratio_high, dual_clip=clip_ratio_c)
        return objective.loss(loss_agg_mode, batch, rollout_is_weights, metrics)


def _weighted(
    tokens: common.Tokens, entropy: Tensor, mapping: str, scope: str, w_min: float, w_max: float
) -> tuple[common.Tokens, dict[str, Tensor]]:
    """The tokens, each with its weight, and the metrics of the method."""
    change = _entropy_change(tokens, entropy)
    weight = _weight(mapping, scope, change, tokens.mask, w_min, w_max)
    valid = tokens.mask.count_nonzero().clamp(min=1)
    metrics = {
        "actor/steer/weight": common.masked_sum(weight, tokens.mask) / valid,
        "actor/steer/entropy_change": change.sum() / valid,
    }
    return slots.weighted(tokens, weight), metrics


def _entropy_change(tokens: common.Tokens, entropy: Tensor) -> Tensor:
    """|Omega|, [B, T], 0 outside the mask: the paper's A/pi_old * p (1 - p) (log p + H), but always finite."""
    log_prob = tokens.log_prob.detach()
    change = tokens.advantages * common.bounded_exp(tokens.log_ratio.detach())
    change *= 1 - log_prob.exp()
    change *= tokens.keep(entropy).add_(log_prob)
    return change.abs_()


def _weight(mapping: str, scope: str, change: Tensor, mask: Tensor, w_min: float, w_max: float) -> Tensor:
    """Weights [B, T]; what stands outside the mask is not used."""
    if change.numel() == 0:
        return torch.ones_like(change)
    dims = (-1,) if scope == "row" else (0, 1)
    greatest = change.amax(dim=dims, keepdim=True)  # |Omega| >= 0, so the 0 outside the mask does not matter
    if mapping == "exponential":
        rate = -math.log(w_min) / greatest.clamp(min=LEAST_CHANGE)
        return torch.exp(-rate * change).clamp(min=w_min)
    least = change.masked_fill(~mask, torch.inf).amin(dim=dims, keepdim=True)
    spread = greatest - least
    # A spread of 0, and -inf where no token is valid, leave every weight at w_max; NaN must not.
    position = torch.where(spread <= 0, 0.0, (change - least) / spread)
    return w_max - (w_max - w_min) * position

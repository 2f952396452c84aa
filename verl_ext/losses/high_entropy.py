"""The 80/20 mask: PPO's term on the tokens of highest entropy only.

Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM Reasoning,
arXiv 2506.01939: objective equation 6. What differs from the authors' code is in docs/methods/high_entropy.md.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from verl_ext.hyper import check_call, number, one_of
from verl_ext.losses import common, slots

SCOPES = ("row", "batch")
AGGREGATIONS = common.AGGREGATIONS


def token_data(rho: float, scope: str, **_: object) -> tuple[str, ...]:
    """The fields of `TokenContext` that these options cannot do without."""
    if rho == 1:
        return ()
    return ("entropy",) if scope == "row" else ("group_ids",)


def batch_groups(old_entropy: Tensor, response_mask: Tensor, *, rho: float, scope: str, **_: object) -> Tensor | None:
    """1 for the share `rho` of highest entropy among the tokens of the whole batch, 0 for the others, -1 outside.

    Args:
        old_entropy: [B, T] nats, all rows of the batch.
        response_mask: [B, T] bool.
        rho, scope: hyper-parameters of the loss.

    Returns:
        [B, T] long; None where the loss does not need it.
    """
    check_call(high_entropy_loss, {"rho": rho, "scope": scope})
    if not token_data(rho, scope) or scope == "row":
        return None
    flat = _highest(old_entropy.reshape(1, -1), response_mask.reshape(1, -1), rho).view(response_mask.shape)
    return flat.long().masked_fill(~response_mask, -1)


def high_entropy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    entropy: Tensor | None = None,
    group_ids: Tensor | None = None,
    rho: Annotated[float, number(above=0, most=1)] = 0.2,
    scope: Annotated[str, one_of(*SCOPES)] = "row",
    clip_ratio_low: Annotated[float, number(least=0)] = 0.2,
    clip_ratio_high: Annotated[float, number(least=0)] = 0.28,
    clip_ratio_c: Annotated[float, number(above=1)] = 10.0,
    loss_agg_mode: Annotated[str, one_of(*AGGREGATIONS)] = "token-mean",
    batch: common.GlobalBatch = common.GlobalBatch(),  # noqa: B008 - frozen
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """verl's `vanilla` loss on the share rho of tokens with the highest entropy (arXiv 2506.01939, equation 6).

        J_t = w 1[H_t >= tau] * max(min(r A, clip(r, 1 - low, 1 + high) A), c A if A < 0)

    r = exp(d), d = log_prob - old_log_prob clamped to [-20, 20]. Of n tokens the ceil(rho n) of highest entropy are
    kept: in each row by itself, by the current policy's entropy (`row`), or in the whole batch, by the old policy's, on
    the controller (`batch`). w turns the mean over all tokens into that over the kept ones: n / ceil(rho n) of the row,
    or 1/rho. With rho = 1 this is `vanilla`.

    Args:
        old_log_prob, log_prob: [B, T] log pi_old(y_t), log pi_theta(y_t); the latter carries the gradient.
        advantages, response_mask: [B, T]; the mask is bool or 0/1, and where it is 0 nothing else is read.
        entropy: [B, T] nats, of the current policy; needed by `row` unless rho is 1.
        group_ids: [B, T] long from `batch_groups`, 1 where the token is kept; needed by `batch` unless rho is 1.
        rho: share of tokens kept, in (0, 1].
        scope: `row` or `batch`.
        clip_ratio_low, clip_ratio_high, clip_ratio_c: low, high and c.
        loss_agg_mode: any of verl's; `token-mean` in the paper.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats.

    Raises:
        ValueError: an option out of its range, differing shapes, token data not given, or entropies far below 0.

    Example:
        >>> import torch
        >>> log_prob = torch.log(torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
        >>> advantages, entropy = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[0.1, 0.9, 0.3, 0.2]])
        >>> loss, _ = high_entropy_loss(log_prob, log_prob, advantages, torch.ones(1, 4), entropy=entropy, rho=0.5)
        >>> round(loss.item(), 6)  # the second and third token: (2 + 4) / 2
        -3.0
    """
    check_call(high_entropy_loss, locals())
    common.check_given("high_entropy", token_data(rho, scope), entropy=entropy, group_ids=group_ids)
    with common.full_precision(log_prob.device):
        tokens = common.read_tokens(
            old_log_prob,
            log_prob,
            advantages,
            response_mask,
            entropy=entropy,
            group_ids=group_ids,
            rollout_is_weights=rollout_is_weights,
        )
        weight = _weight(tokens, entropy if scope == "row" else None, group_ids, rho)
        kept = weight.count_nonzero() / tokens.mask.sum().clamp(min=1)
        tokens = slots.weighted(tokens, weight)
        del weight  # [B, T], and not needed for the objective
        objective = slots.objective(tokens, 1 - clip_ratio_low, 1 + clip_ratio_high, dual_clip=clip_ratio_c)
        return objective.loss(loss_agg_mode, batch, rollout_is_weights, {"actor/high_entropy/kept": kept})


def _weight(tokens: common.Tokens, entropy: Tensor | None, group_ids: Tensor | None, rho: float) -> Tensor:
    """w of the tokens that learn, 0 of the others, [B, T]."""
    dtype = tokens.log_ratio.dtype
    if rho == 1:
        return tokens.mask.to(dtype)
    if entropy is None:
        assert group_ids is not None
        return (tokens.mask & (group_ids == 1)).to(dtype) / rho
    kept = _highest(entropy, tokens.mask, rho)
    length, count = (common.row_lengths(where).unsqueeze(-1) for where in (tokens.mask, kept))
    return kept * (length.to(dtype) / count.clamp(min=1))


def _highest(entropy: Tensor, mask: Tensor, rho: float) -> Tensor:
    """The ceil(rho n) of a row's n valid tokens with the highest entropy, earlier ones first among equals; bool."""
    order = entropy.detach().masked_fill(~mask, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    # A little less: the product 0.28 * 25 is above 7 by a rounding error, and would become 8.
    count = torch.ceil(rho * mask.sum(dim=-1, keepdim=True).double() - 1e-9)
    return mask & (rank < count)

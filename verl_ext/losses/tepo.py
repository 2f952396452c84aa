"""TEPO: the sequence's likelihood ratio on every token, and a KL penalty on the tokens whose entropy falls.

Token-Level Policy Optimization, arXiv 2604.12736: objective and mask equation 4, gradient algorithm 1, ratios and
aggregations of the ablations table 5. What the paper leaves open is in docs/methods/tepo.md.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from verl_ext.hyper import check_call, number, one_of
from verl_ext.losses import common, slots, trace
from verl_ext.losses.kl import KL_TYPES, kl_of

RATIOS = ("sequence", "token", "prefix", "none")
CLIPS = ("printed", "ppo", "none")
KL_MASKS = ("pos_adv_entropy_down", "neg_adv_entropy_up", "either", "all", "none")
AGGREGATIONS = common.AGGREGATIONS


def token_data(kl_mask: str, kl_coef: float, **_: object) -> tuple[str, ...]:
    """The fields of `TokenContext` that these options cannot do without."""
    return ("entropy", "old_entropy") if kl_coef != 0 and kl_mask not in ("all", "none") else ()


def tepo_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    entropy: Tensor | None = None,
    old_entropy: Tensor | None = None,
    ratio: Annotated[str, one_of(*RATIOS)] = "sequence",
    clip: Annotated[str, one_of(*CLIPS)] = "printed",
    kl_mask: Annotated[str, one_of(*KL_MASKS)] = "pos_adv_entropy_down",
    entropy_tol: Annotated[float, number(least=0)] = 0.0,
    kl_coef: Annotated[float, number(least=0)] = 0.001,
    kl_type: Annotated[str, one_of(*KL_TYPES)] = "low_var_kl",
    clip_ratio_low: Annotated[float, number(least=0)] = 0.2,
    clip_ratio_high: Annotated[float, number(least=0)] = 0.2,
    loss_agg_mode: Annotated[str, one_of(*AGGREGATIONS)] = "token-mean",
    batch: common.GlobalBatch = common.GlobalBatch(),  # noqa: B008 - frozen
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """TEPO's objective, negated (arXiv 2604.12736, equation 4).

        J_t = C_t - kl_coef * KL_t * M_t
        C_t = min(w, clip(w, 1 - low, 1 + high)) A   `printed`, equation 4: bounded above for either sign of A
              min(w A, clip(w, 1 - low, 1 + high) A) `ppo`
              w A                                    `none`, algorithm 1
        w   = exp(mean of d over the row) `sequence`, exp(d) `token`, exp(mean of d up to t) `prefix`;
              with `none` C_t = A * log_prob, and `clip` is not read (GPG)
        M_t = A > 0 and H - Ho < -entropy_tol        `pos_adv_entropy_down`
              A < 0 and H - Ho > entropy_tol         `neg_adv_entropy_up`
              one or the other `either`, 1 `all`, 0 `none`

    d = log_prob - old_log_prob; d and its means are clamped to [-20, 20]. All ratios carry gradient. H and Ho are the
    entropies of the current and the old policy; KL_t estimates KL(pi_theta || pi_old), see verl_ext.losses.kl.

    Args:
        old_log_prob, log_prob: [B, T] log pi_old(y_t), log pi_theta(y_t); the latter carries the gradient.
        advantages, response_mask: [B, T]; the mask is bool or 0/1, and where it is 0 nothing else is read.
        entropy, old_entropy: [B, T] nats; needed where `kl_coef` is not 0 and the mask compares them.
        ratio, clip, kl_mask, kl_type: see above.
        entropy_tol, kl_coef: >= 0.
        clip_ratio_low, clip_ratio_high: low and high.
        loss_agg_mode: `token-mean` in the paper; verl's other modes in its table 3, panel D.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats, the same keys under all options.

    Raises:
        ValueError: an option out of its range, differing shapes, token data not given, or entropies far below 0.

    Example:
        >>> import torch
        >>> old, new = torch.log(torch.tensor([[0.5, 0.4]])), torch.log(torch.tensor([[0.55, 0.44]]))
        >>> loss, _ = tepo_loss(old, new, torch.ones(1, 2), torch.ones(1, 2), kl_coef=0.0)
        >>> round(loss.item(), 6)  # both tokens rose by a tenth
        -1.1
    """
    check_call(tepo_loss, locals())
    asked = f"tepo with kl_mask={kl_mask}, kl_coef={kl_coef:g}"
    common.check_given(asked, token_data(kl_mask, kl_coef), entropy=entropy, old_entropy=old_entropy)
    with common.full_precision(log_prob.device):
        tokens = common.read_tokens(
            old_log_prob,
            log_prob,
            advantages,
            response_mask,
            entropy=entropy,
            old_entropy=old_entropy,
            rollout_is_weights=rollout_is_weights,
        )
        valid = tokens.mask.count_nonzero().clamp(min=1)
        penalised = penalty = torch.zeros_like(tokens.log_ratio[:, :1])
        if kl_coef != 0 and kl_mask != "none":
            penalised = _kl_mask(kl_mask, tokens, entropy, old_entropy, entropy_tol)
            penalty = kl_of(tokens.log_ratio, kl_type) * penalised
        weight = _ratio(ratio, tokens)
        metrics = {
            "actor/tepo/kl_mask": penalised.sum() / valid,
            "actor/tepo/kl": penalty.detach().sum() / valid,
            "actor/tepo/weight": common.masked_sum(weight.detach(), tokens.mask) / valid,
        }
        objective = _objective("none" if ratio == "none" else clip, weight, tokens, clip_ratio_low, clip_ratio_high)
        objective.values.sub_(penalty, alpha=kl_coef)
        del penalty  # [B, T], and not needed for the gradient
        return objective.loss(loss_agg_mode, batch, rollout_is_weights, metrics)


def _ratio(ratio: str, tokens: common.Tokens) -> Tensor:
    """What multiplies the advantage: w, or the log-probability itself for `none`; [B, T], or [B, 1] for `sequence`."""
    if ratio == "none":
        return tokens.log_prob
    if ratio == "token":
        return common.bounded_exp(tokens.log_ratio)
    d, mask = tokens.log_ratio, tokens.mask
    if ratio == "sequence":
        return common.bounded_exp((d.sum(dim=-1) / common.row_lengths(mask).clamp(min=1)).unsqueeze(-1))
    return common.bounded_exp(d.cumsum(dim=-1) / mask.cumsum(dim=-1).clamp(min=1))


def _objective(clip: str, weight: Tensor, tokens: common.Tokens, low: float, high: float) -> slots.Objective:
    """The clipped term."""
    if clip == "ppo":
        return slots.objective(tokens, 1 - low, 1 + high, ratio=weight)
    # min(w, clip(w)) is w below the upper bound, so the lower one never acts. It needs no product with A, and stays
    # [B, 1] for a ratio of the row.
    upper = math.inf if clip == "none" else 1 + high
    beyond = (weight > upper) & (tokens.advantages != 0)
    trace.note(ratio=weight, lower=weight.new_tensor(-math.inf), upper=weight.new_tensor(upper), clipped=beyond)
    return slots.Objective(tokens, weight.clamp(max=upper) * tokens.advantages, beyond.new_zeros(()), beyond)


def _kl_mask(
    kl_mask: str, tokens: common.Tokens, entropy: Tensor | None, old_entropy: Tensor | None, tol: float
) -> Tensor:
    """M of equation 4, [B, T], 0 or 1, and NaN where an entropy is."""
    if kl_mask == "all":
        return tokens.mask.view(torch.uint8)
    assert entropy is not None
    assert old_entropy is not None
    change = tokens.keep(entropy) - tokens.keep(old_entropy)
    chosen = torch.zeros_like(tokens.mask)
    if kl_mask in ("pos_adv_entropy_down", "either"):
        chosen |= (tokens.advantages > 0) & (change < -tol)
    if kl_mask in ("neg_adv_entropy_up", "either"):
        chosen |= (tokens.advantages < 0) & (change > tol)
    # NaN compares false: a broken entropy would otherwise only switch the penalty off.
    return change.mul_(0).add_(chosen.view(torch.uint8))


def own_bounds(*, clip: str, ratio: str, **_: object) -> str:
    """The option by which nothing is clipped."""
    return "clip=none" if clip == "none" else "ratio=none" if ratio == "none" else ""

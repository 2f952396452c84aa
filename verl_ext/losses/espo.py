"""ESPO: importance ratios and clip widths shared by tokens of similar entropy.

Entropy Importance Sampling Policy Optimization, arXiv 2512.00499: objective section 3.2, ratios 3.3, groups
and widths 3.4, reductions to GSPO and PPO 3.6. What the paper leaves open is in docs/methods/espo.md.

Shapes: B rows, T tokens, K groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from verl_ext import grouping as grp
from verl_ext.hyper import ascending, check_call, number, one_of
from verl_ext.losses import common, slots

GROUPINGS = ("quantile", "threshold", "sequence", "token")
TOKEN_RATIOS = ("detached", "old")
CLIPS = ("adaptive", "fixed")
AGGREGATIONS = ("seq-mean-token-mean",)


def token_data(grouping: str, clip: str, **_: object) -> tuple[str, ...]:
    """The fields of `TokenContext` that these options cannot do without."""
    entropy = grouping in ("quantile", "threshold") or clip == "adaptive"
    return ("old_entropy",) * entropy + ("vocab_size",) * (clip == "adaptive")


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Faults between hyper-parameters that are each in range."""
    grouping, quantiles = values.get("grouping"), values.get("entropy_quantiles")
    thresholds = values.get("entropy_thresholds")
    if grouping == "quantile" and quantiles is not None and not quantiles:
        return ["grouping=quantile needs at least one number in entropy_quantiles"]
    if grouping == "threshold" and thresholds is not None and not thresholds:
        return ["grouping=threshold needs at least one number, in nats, in entropy_thresholds"]
    if grouping is not None and grouping != "threshold" and thresholds:
        return [f"entropy_thresholds is not read with grouping={grouping}; set grouping=threshold"]
    return []


def espo_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    old_entropy: Tensor | None = None,
    vocab_size: int | None = None,
    group_ids: Tensor | None = None,
    grouping: Annotated[str, one_of(*GROUPINGS)] = "quantile",
    entropy_quantiles: Annotated[Sequence[float], ascending(above=0, below=1)] = (0.8,),
    entropy_thresholds: Annotated[Sequence[float], ascending(above=0)] = (),
    token_ratio: Annotated[str, one_of(*TOKEN_RATIOS)] = "detached",
    clip: Annotated[str, one_of(*CLIPS)] = "adaptive",
    alpha: Annotated[float, number(least=0)] = 0.02,
    clip_ratio_low: Annotated[float, number(least=0)] = 0.2,
    clip_ratio_high: Annotated[float, number(least=0)] = 0.2,
    loss_agg_mode: Annotated[str, one_of(*AGGREGATIONS)] = "seq-mean-token-mean",
    batch: common.GlobalBatch = common.GlobalBatch(),  # noqa: B008 - frozen
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """ESPO's clipped objective, negated (arXiv 2512.00499, section 3.2).

        J_i = 1/|groups of i| sum_g 1/|g| sum_{t in g} min(r_t A_t, clip(r_t, 1 - eps_g, 1 + eps_g) A_t)
        loss = -sum_i J_i / G * dp_size

    d = log_prob - old_log_prob, s_g = exp(mean_g d); r = sg(s_g) exp(l - sg(l)) (`detached`) or
    sg(s_g) exp(d) (`old`); eps_g = alpha * mean_g(old_entropy) / log(vocab_size) (`adaptive`) or constants
    (`fixed`). Means of d, and d exponentiated by itself, are clamped to [-20, 20].

    Args:
        old_log_prob, log_prob: [B, T] log pi_old(y_t), log pi_theta(y_t); the latter carries the gradient.
        advantages, response_mask: [B, T]; the mask is bool or 0/1, and where it is 0 nothing else is read.
        old_entropy: [B, T] nats; needed unless the grouping is `sequence` or `token` and the clip `fixed`.
        vocab_size: size of the distribution behind the entropies; needed by `adaptive`.
        group_ids: [B, T] long, what `group_ids()` gives for the same entropies and mask; made here if None.
        grouping, entropy_quantiles, entropy_thresholds: `quantile` or `threshold` cuts (in nats), see
            verl_ext.grouping; `sequence` or `token` for one group a row or a token.
        token_ratio, clip: see above.
        alpha: >= 0; 0.02 is the best of version 2's sweep (its table 3).
        clip_ratio_low, clip_ratio_high: widths of `fixed`.
        loss_agg_mode: only `seq-mean-token-mean` leaves 1/|groups| and 1/|g| their meaning.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats, their keys set by the options, 0 for an absent group.

    Raises:
        ValueError: an option out of its range, another aggregation, differing shapes, token data not given,
            entropies far below 0, or valid tokens whose group id is no group.

    Example:
        >>> import torch
        >>> old, new = torch.log(torch.tensor([[0.5, 0.25]])), torch.log(torch.tensor([[0.6, 0.25]]))
        >>> loss, _ = espo_loss(old, new, torch.ones(1, 2), torch.ones(1, 2), grouping="token", clip="fixed")
        >>> round(loss.item(), 6)  # -(0.6/0.5 + 0.25/0.25) / 2
        -1.1
    """
    check_call(espo_loss, locals(), contradictions)
    asked = f"espo with grouping={grouping}, clip={clip}"
    common.check_given(asked, token_data(grouping, clip), old_entropy=old_entropy, vocab_size=vocab_size)
    if clip == "adaptive" and vocab_size is not None and vocab_size < 2:
        raise ValueError(f"espo divides entropies by log(vocab_size): {vocab_size=} must be at least 2")
    with common.full_precision(log_prob.device):
        tokens = common.read_tokens(
            old_log_prob,
            log_prob,
            advantages,
            response_mask,
            old_entropy=old_entropy,
            group_ids=group_ids,
            rollout_is_weights=rollout_is_weights,
        )
        if group_ids is None and old_entropy is not None:
            group_ids = make_group_ids(old_entropy, tokens.mask, grouping, entropy_quantiles, entropy_thresholds)
        groups = _partition(grouping, tokens.mask, group_ids, len(entropy_quantiles), len(entropy_thresholds))
        entropy = None if old_entropy is None else groups.mean(tokens.keep(old_entropy))
        group_ratio = common.bounded_exp(groups.mean(tokens.log_ratio.detach()))
        lower, upper = _bounds(clip, group_ratio, entropy, vocab_size, alpha, clip_ratio_low, clip_ratio_high)
        objective = slots.objective(
            tokens,
            groups.each(lower),
            groups.each(upper),
            ratio=_token_ratio(token_ratio, tokens, groups, group_ratio),
        )
        loss = common.row_mean_loss(groups.mean_of_means(objective.corrected(rollout_is_weights)), tokens.mask, batch)
        means = {"ratio": _mean_ratio(token_ratio, tokens, groups, group_ratio), "eps": (upper - lower) / 2}
        means |= {} if entropy is None else {"entropy": entropy}
        metrics = _metrics(groups, objective, means, pooled=grouping in ("sequence", "token"))
    if missing := metrics.pop(UNGROUPED):
        raise ValueError(
            f"espo: {missing:.0f} valid tokens have a group id outside the groups of grouping={grouping}; the ids must "
            "come from the same mask and the same cuts"
        )
    return loss, metrics


# A count that travels with the metrics, so that checking it costs no transfer of its own.
UNGROUPED = "valid tokens without a group"


def make_group_ids(
    old_entropy: Tensor,
    response_mask: Tensor,
    grouping: str,
    entropy_quantiles: Sequence[float],
    entropy_thresholds: Sequence[float],
    **_: object,
) -> Tensor | None:
    """The entropy group of each token, [B, T] long, -1 outside the mask; None where the grouping has no need of it.

    Both the sort and the ids depend on the old policy alone, so they are made once, on the controller.
    """
    if grouping == "quantile":
        return grp.entropy_groups(old_entropy, response_mask, entropy_quantiles)
    if grouping == "threshold":
        return grp.threshold_groups(old_entropy, response_mask, entropy_thresholds)
    return None


def _partition(grouping: str, mask: Tensor, group_ids: Tensor | None, quantiles: int, thresholds: int) -> grp.Groups:
    if grouping == "sequence":
        return grp.Groups(grp.sequence_groups(mask), mask, 1)
    if grouping == "token":
        return grp.Groups(grp.token_groups(mask), mask, mask.shape[-1])
    assert group_ids is not None
    return grp.Groups(group_ids, mask, (quantiles if grouping == "quantile" else thresholds) + 1)


def _bounds(
    clip: str,
    like: Tensor,
    entropy: Tensor | None,
    vocab_size: int | None,
    alpha: float,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """Least and greatest ratio of each group, [B, K] each, from its mean entropy; in the dtype of `like` [B, K]."""
    if clip == "fixed":
        return torch.full_like(like, 1 - low), torch.full_like(like, 1 + high)
    assert entropy is not None
    assert vocab_size is not None
    width = alpha * entropy / math.log(vocab_size)
    return 1 - width, 1 + width


def _token_ratio(token_ratio: str, tokens: common.Tokens, groups: grp.Groups, group_ratio: Tensor) -> Tensor:
    """r, [B, T]."""
    d = tokens.log_ratio
    if token_ratio == "old":
        return groups.each(group_ratio) * common.bounded_exp(d)
    return groups.each(group_ratio) * (1 + (d - d.detach()))  # 1 + x has the value and the slope of exp(x) at 0


def _mean_ratio(token_ratio: str, tokens: common.Tokens, groups: grp.Groups, group_ratio: Tensor) -> Tensor:
    """Mean of r over each group, [B, K]."""
    if token_ratio == "old":
        return group_ratio * groups.mean(common.bounded_exp(tokens.log_ratio.detach()))
    return group_ratio


def _metrics(
    groups: grp.Groups, objective: slots.Objective, means: dict[str, Tensor], pooled: bool
) -> dict[str, float]:
    """Token-weighted means over the valid tokens of this call, per group, or over all groups if `pooled`.

    Args:
        groups, objective: of this call.
        means: [B, K] each, means over the tokens of a group.
        pooled: whether the metrics take all groups as one.
    """
    sums = {name: mean * groups.size for name, mean in means.items()}
    sums |= {"clip_low": groups.tally(objective.low), "clip_high": groups.tally(objective.high)}
    rows = (0, 1) if pooled else (0,)
    valid = objective.tokens.mask.count_nonzero()
    size = groups.size.sum(dim=rows).view(-1)
    columns = {name: total.sum(dim=rows).view(-1) / size.clamp(min=1) for name, total in sums.items()}
    columns["tokens"] = size / valid.clamp(min=1)

    metrics = objective.clip_metrics() | {UNGROUPED: valid - groups.size.sum()}
    for name, column in columns.items():
        metrics |= {f"actor/espo/group{k}/{name}": value for k, value in enumerate(column.unbind())}
    return common.to_floats(metrics)


def own_bounds(*, clip: str, **_: object) -> str:
    """The option by which the bounds are the loss's own."""
    return "clip=adaptive" if clip == "adaptive" else ""

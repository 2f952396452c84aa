"""ESPO: importance ratios and clip widths shared by tokens of similar entropy.

Entropy Importance Sampling Policy Optimization, arXiv 2512.00499: objective section 3.2, ratios 3.3, groups
and widths 3.4, reductions to GSPO and PPO 3.6. What the paper leaves open is in docs/methods/espo.md.

Shapes: B rows, T tokens, K groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_ext import grouping as grp
from verl_ext.losses import common

GROUPINGS = ("quantile", "threshold", "sequence", "token")
TOKEN_RATIOS = ("detached", "old")
CLIPS = ("adaptive", "fixed")
AGGREGATIONS = ("seq-mean-token-mean",)


def token_data(grouping: str = "quantile", clip: str = "adaptive", **_: object) -> tuple[str, ...]:
    """The fields of `TokenContext` that these options cannot do without."""
    entropy = grouping in ("quantile", "threshold") or clip == "adaptive"
    return ("old_entropy",) * entropy + ("vocab_size",) * (clip == "adaptive")


def espo_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    old_entropy: Tensor | None = None,
    vocab_size: int | None = None,
    grouping: str = "quantile",
    entropy_quantiles: Sequence[float] = (0.8,),
    entropy_thresholds: Sequence[float] = (),
    token_ratio: str = "detached",
    clip: str = "adaptive",
    alpha: float = 0.1,
    clip_ratio_low: float = 0.2,
    clip_ratio_high: float = 0.2,
    loss_agg_mode: str = "seq-mean-token-mean",
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
        grouping, entropy_quantiles, entropy_thresholds: `quantile` or `threshold` cuts (in nats), see
            verl_ext.grouping; `sequence` or `token` for one group a row or a token.
        token_ratio, clip, alpha (>= 0): see above; clip_ratio_low, clip_ratio_high: widths of `fixed`.
        loss_agg_mode: only `seq-mean-token-mean` leaves 1/|groups| and 1/|g| their meaning.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats, their keys set by the options, 0 for an absent group.

    Raises:
        ValueError: an unknown option, another aggregation, differing shapes, or token data not given.

    Example:
        >>> import torch
        >>> old, new = torch.log(torch.tensor([[0.5, 0.25]])), torch.log(torch.tensor([[0.6, 0.25]]))
        >>> loss, _ = espo_loss(old, new, torch.ones(1, 2), torch.ones(1, 2), grouping="token", clip="fixed")
        >>> round(loss.item(), 6)  # -(0.6/0.5 + 0.25/0.25) / 2
        -1.1
    """
    _check_options(grouping, token_ratio, clip, loss_agg_mode)
    _check_token_data(grouping, clip, old_entropy, vocab_size)
    grp.check_same_shape(
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=response_mask,
        old_entropy=old_entropy,
        rollout_is_weights=rollout_is_weights,
    )
    mask = response_mask.bool()
    with common.full_precision(log_prob.device):
        dtype = common.compute_dtype(log_prob, old_log_prob, advantages)
        new, old, adv = (common.keep(x, mask, dtype) for x in (log_prob, old_log_prob, advantages))
        entropy = None if old_entropy is None else common.keep(old_entropy.detach(), mask, dtype)
        groups = _partition(grouping, mask, old_entropy, entropy_quantiles, entropy_thresholds)
        d = new - old
        ratio = _token_ratio(token_ratio, new, d, groups)
        lower, upper = _bounds(clip, d, entropy, vocab_size, groups, alpha, clip_ratio_low, clip_ratio_high)
        term, clipped = common.clipped_term(ratio, adv, lower, upper)
        if rollout_is_weights is not None:
            term = term * common.keep(rollout_is_weights, mask, dtype)
        row_objective = (term * groups.weight(dtype)).sum(dim=-1)
        loss = common.row_mean_loss(row_objective, mask, batch)
        width = (upper - lower) / 2
        metrics = _metrics(groups, mask, d.detach(), ratio.detach(), width, entropy, adv, clipped)
    return loss, metrics


@dataclass(frozen=True)
class _Groups:
    """ids [B, T] in -1..count-1, and which `pooled` [B, T] group of the metrics a token belongs to."""

    ids: Tensor
    count: int
    pooled: Tensor
    pooled_count: int

    def mean(self, values: Tensor) -> Tensor:
        """[B, T] -> each token's group mean, [B, T]."""
        return grp.per_token(grp.group_mean(values, self.ids, self.count), self.ids)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """1 / (|groups of the row| |g|) for each valid token, [B, T], 0 elsewhere; a row sums to 1 or 0."""
        size = grp.group_size(self.ids, self.count, dtype)
        present = (size > 0).sum(dim=-1, keepdim=True)
        return grp.per_token(1 / (size * present).clamp(min=1), self.ids)


def _check_options(grouping: str, token_ratio: str, clip: str, loss_agg_mode: str) -> None:
    options = (
        ("grouping", grouping, GROUPINGS),
        ("token_ratio", token_ratio, TOKEN_RATIOS),
        ("clip", clip, CLIPS),
        ("loss_agg_mode", loss_agg_mode, AGGREGATIONS),
    )
    faults = [
        f"{name}={value!r} is not one of {', '.join(known)}" for name, value, known in options if value not in known
    ]
    if faults:
        raise ValueError("espo: " + "; ".join(faults))


def _check_token_data(grouping: str, clip: str, old_entropy: Tensor | None, vocab_size: int | None) -> None:
    given = {"old_entropy": old_entropy, "vocab_size": vocab_size}
    missing = [name for name in token_data(grouping, clip) if given[name] is None]
    if missing:
        raise ValueError(f"espo with grouping={grouping}, clip={clip} needs {' and '.join(missing)}")
    if clip == "adaptive" and vocab_size is not None and vocab_size < 2:
        raise ValueError(f"espo divides entropies by log(vocab_size): {vocab_size=} must be at least 2")


def _partition(
    grouping: str,
    mask: Tensor,
    old_entropy: Tensor | None,
    quantiles: Sequence[float],
    thresholds: Sequence[float],
) -> _Groups:
    whole_row = grp.sequence_groups(mask)
    if grouping == "sequence":
        return _Groups(whole_row, 1, whole_row, 1)
    if grouping == "token":
        return _Groups(grp.token_groups(mask), mask.shape[-1], whole_row, 1)
    assert old_entropy is not None
    if grouping == "quantile":
        ids, count = grp.entropy_groups(old_entropy, mask, quantiles), len(quantiles) + 1
    else:
        ids, count = grp.threshold_groups(old_entropy, mask, thresholds), len(thresholds) + 1
    return _Groups(ids, count, ids, count)


def _token_ratio(token_ratio: str, log_prob: Tensor, d: Tensor, groups: _Groups) -> Tensor:
    group_ratio = common.bounded_exp(groups.mean(d.detach()))
    if token_ratio == "detached":
        return group_ratio * (log_prob - log_prob.detach()).exp()
    return group_ratio * common.bounded_exp(d)


def _bounds(
    clip: str,
    like: Tensor,
    entropy: Tensor | None,
    vocab_size: int | None,
    groups: _Groups,
    alpha: float,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """Least and greatest ratio of each token, [B, T] each, in the dtype of `like`."""
    if clip == "fixed":
        return torch.full_like(like, 1 - low), torch.full_like(like, 1 + high)
    assert entropy is not None
    assert vocab_size is not None
    width = alpha * groups.mean(entropy) / math.log(vocab_size)
    return 1 - width, 1 + width


def _metrics(
    groups: _Groups,
    mask: Tensor,
    d: Tensor,
    ratio: Tensor,
    width: Tensor,
    entropy: Tensor | None,
    advantages: Tensor,
    clipped: Tensor,
) -> dict[str, float]:
    """Token-weighted means over the valid tokens of this call, per pooled group and over all of them."""
    columns = {
        "ratio": ratio,
        "eps": width,
        "clip_low": (clipped & (advantages < 0)).to(d.dtype),
        "clip_high": (clipped & (advantages > 0)).to(d.dtype),
    }
    if entropy is not None:
        columns["entropy"] = entropy
    stacked = torch.stack([column.flatten() for column in columns.values()])  # 0 or unread behind the mask
    flat = groups.pooled.flatten().expand_as(stacked)
    means = grp.group_mean(stacked, flat, groups.pooled_count)
    valid = mask.sum().clamp(min=1)
    sizes = grp.group_size(flat[:1], groups.pooled_count, d.dtype)[0]
    share = sizes / valid

    metrics = {
        "actor/pg_clipfrac": clipped.sum() / valid,
        "actor/ppo_kl": -d.clamp(-common.MAX_LOG_RATIO, common.MAX_LOG_RATIO).sum() / valid,
        "actor/pg_clipfrac_lower": d.new_zeros(()),  # verl's name for dual clip, which ESPO does not have
        "actor/pg_clipfrac_low": columns["clip_low"].sum() / valid,
        "actor/pg_clipfrac_high": columns["clip_high"].sum() / valid,
    }
    for k in range(groups.pooled_count):
        for row, name in enumerate(columns):
            metrics[f"actor/espo/group{k}/{name}"] = means[row, k]
        metrics[f"actor/espo/group{k}/tokens"] = share[k]
    return common.to_floats(metrics)

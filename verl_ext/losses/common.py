"""What every policy loss here shares: precision, aggregation, metrics.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_ext import grouping as grp

# exp(20) is 4.9e8: far outside any clip range, and finite in float32 whatever it is multiplied with.
MAX_LOG_RATIO = 20.0

# Values of verl's `actor.loss_agg_mode`.
AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


@dataclass(frozen=True)
class GlobalBatch:
    """Normalisers of the whole mini-batch, over all micro-batches and ranks; the fields of verl's
    `config.global_batch_info`.

    Attributes:
        dp_size: data-parallel ranks. Gradients are averaged over them, so each rank's loss is scaled by it.
        batch_num_tokens: valid tokens of the mini-batch.
        global_batch_size: rows of the mini-batch; None stands for the non-empty rows of this call.
        loss_scale_factor: divisor of verl's `seq-mean-token-sum-norm`.
    """

    dp_size: int = 1
    batch_num_tokens: float | Tensor | None = None
    global_batch_size: float | Tensor | None = None
    loss_scale_factor: float | None = None


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Autocast off: under it a grouped sum may run in bfloat16, whose steps exceed a clip range of 3e-4."""
    return torch.autocast(device_type=device.type, enabled=False)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of `tensors`, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def keep(values: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` in `dtype`, 0 where the mask is 0.

    Done to every input first: a NaN behind the mask then reaches neither the value nor, as 0 * NaN, the
    gradient.
    """
    return torch.where(mask, values.to(dtype), 0.0)


@dataclass(frozen=True)
class Tokens:
    """A loss's inputs in one dtype, 0 where the mask is 0; only `log_ratio` and `log_prob` carry gradient.

    Attributes:
        log_ratio: [B, T], d = log_prob - old_log_prob.
        advantages: [B, T].
        mask: [B, T] bool.
        given: log_prob and old_log_prob as they came.
        impossible: [], valid tokens with an entropy far below 0.
    """

    log_ratio: Tensor
    advantages: Tensor
    mask: Tensor
    given: tuple[Tensor, Tensor]
    impossible: Tensor

    # Most losses need d alone, so these two are made anew whenever they are asked for.
    @property
    def log_prob(self) -> Tensor:
        """[B, T], with gradient."""
        return keep(self.given[0], self.mask, self.log_ratio.dtype)

    @property
    def old_log_prob(self) -> Tensor:
        """[B, T]."""
        return self.keep(self.given[1])

    def keep(self, values: Tensor) -> Tensor:
        """Further per-token data in the same form, without gradient."""
        return keep(values.detach(), self.mask, self.log_ratio.dtype)


def read_tokens(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    **others: Tensor | None,
) -> Tokens:
    """Check that all inputs are [B, T] of one shape, and take them into the dtype that the loss computes in.

    That is the widest of the three float inputs, float32 at least.

    Raises:
        ValueError: shapes differ; `others` are checked too.
    """
    grp.check_same_shape(
        old_log_prob=old_log_prob, log_prob=log_prob, advantages=advantages, response_mask=response_mask, **others
    )
    mask = response_mask.bool()
    dtype = compute_dtype(log_prob, old_log_prob, advantages)
    log_ratio = keep(log_prob.to(dtype) - old_log_prob.detach().to(dtype), mask, dtype)
    impossible = grp.impossible_entropies(mask, **others)
    return Tokens(log_ratio, keep(advantages.detach(), mask, dtype), mask, (log_prob, old_log_prob), impossible)


def check_given(method: str, needed: tuple[str, ...], **given: object) -> None:
    """Raise ValueError where needed token data is None; `method` says which method with which options needs it."""
    missing = [name for name in needed if given[name] is None]
    if missing:
        raise ValueError(f"{method} needs {' and '.join(missing)}")


def bounded_exp(log_values: Tensor) -> Tensor:
    """exp of the argument clamped to [-20, 20]."""
    return log_values.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def row_lengths(mask: Tensor) -> Tensor:
    """Valid tokens of each row, [B]."""
    return mask.sum(dim=-1, dtype=torch.int32)  # torch's own choice, int64, sums a copy of eight bytes a token


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of finite `values`, [B, T] or [B, 1], over the valid tokens."""
    if values.shape != mask.shape:
        return (values.squeeze(-1) * row_lengths(mask)).sum()
    return (values * mask.view(torch.uint8)).sum()  # torch multiplies by bytes several times faster than by bools


# A count that travels with the metrics, so that checking it costs no transfer of its own.
IMPOSSIBLE = "valid tokens with an entropy far below 0"


def clip_metrics(tokens: Tokens, low: Tensor, high: Tensor, dual: Tensor | None = None) -> dict[str, Tensor]:
    """verl's own three metrics, the clipped share at either bound, and a count that `to_floats` checks and takes out.

    Shares are of the valid tokens.

    Args:
        tokens: the loss's inputs.
        low, high: how many tokens were clipped at the lower and the upper bound: any shape, summed.
        dual: the same for the dual clip, where the method has one.
    """
    valid = tokens.mask.count_nonzero().clamp(min=1)
    d = tokens.log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    at_low, at_high = _total(low), _total(high)
    return {
        "actor/pg_clipfrac": (at_low + at_high) / valid,
        "actor/ppo_kl": -d.sum() / valid,
        "actor/pg_clipfrac_lower": d.new_zeros(()) if dual is None else _total(dual) / valid,
        "actor/pg_clipfrac_low": at_low / valid,
        "actor/pg_clipfrac_high": at_high / valid,
        IMPOSSIBLE: tokens.impossible,
    }


def _total(counts: Tensor) -> Tensor:
    # torch sums bools by way of a copy of eight bytes each, and counts them without.
    return counts.count_nonzero() if counts.dtype == torch.bool else counts.sum()


def aggregate(objective: Tensor, mask: Tensor, loss_agg_mode: str, batch: GlobalBatch) -> Tensor:
    """The loss -J of a per-token objective: verl's `agg_loss`, with 0 where verl divides 0 by 0.

    With n_i the valid tokens of row i, N = `batch_num_tokens` and G = `global_batch_size`:

        token-mean                sum_it J_it / N
        token-sum                 sum_it J_it
        seq-mean-token-sum        sum_i (sum_t J_it) / G
        seq-mean-token-sum-norm   the same, divided by `loss_scale_factor`, or by the width T where that is None
        seq-mean-token-mean       sum_i (sum_t J_it / n_i) / G

    each times -dp_size. Where N or G is None, the tokens or non-empty rows of this call stand for it.

    Args:
        objective: [B, T], 0 where the mask is 0.
        mask: [B, T] bool.
        loss_agg_mode: one of `AGGREGATIONS`.
        batch: normalisers of the mini-batch.

    Returns:
        scalar, attached to the graph of `objective` even if every row is empty.

    Raises:
        ValueError: an unknown mode, or several ranks and no normaliser that they could share.
    """
    if loss_agg_mode == "token-sum":
        return -objective.sum() * batch.dp_size
    if loss_agg_mode == "token-mean":
        count = _shared("batch_num_tokens", batch.batch_num_tokens, batch.dp_size)
        # A rank may hold no token of a mini-batch, or a mini-batch none at all.
        tokens = mask.sum().clamp(min=1) if count is None else count
        return -_divide(objective.sum(), tokens) * batch.dp_size
    if loss_agg_mode not in AGGREGATIONS:
        raise ValueError(f"loss_agg_mode={loss_agg_mode!r} is not one of {', '.join(AGGREGATIONS)}")
    row_objective = objective.sum(dim=-1)
    if loss_agg_mode == "seq-mean-token-mean":
        row_objective = row_objective / row_lengths(mask).clamp(min=1)
    loss = row_mean_loss(row_objective, mask, batch)
    if loss_agg_mode == "seq-mean-token-sum-norm":
        scale = batch.loss_scale_factor
        loss = loss / (max(mask.shape[-1], 1) if scale is None else scale)
    return loss


def row_mean_loss(row_objective: Tensor, mask: Tensor, batch: GlobalBatch) -> Tensor:
    """-sum_i J_i / G * dp_size: verl's mean over the rows once each row has its J_i.

    Args:
        row_objective: [B], 0 for an empty row.
        mask: [B, T] bool, used where `batch.global_batch_size` is None.
        batch: normalisers of the mini-batch.

    Returns:
        scalar, attached to the graph of `row_objective` even if every row is empty.

    Raises:
        ValueError: several ranks, and no global batch size that they could share.
    """
    rows = _shared("global_batch_size", batch.global_batch_size, batch.dp_size)
    count = row_lengths(mask).count_nonzero().clamp(min=1) if rows is None else rows
    return -_divide(row_objective.sum(), count) * batch.dp_size


def _shared(name: str, value: float | Tensor | None, dp_size: int) -> float | Tensor | None:
    if value is None and dp_size > 1:
        raise ValueError(
            f"{name} is None with dp_size={dp_size}: each rank would divide by its own number; "
            f"put the mini-batch's {name} into config.global_batch_info"
        )
    return value


def _divide(total: Tensor, count: float | Tensor) -> Tensor:
    """total / count, and 0 with the graph of `total` where the count is 0."""
    if isinstance(count, Tensor):
        return total / torch.where(count == 0, 1, count)
    return total / (count or 1)


def to_floats(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars on the device -> plain floats, moved in one transfer.

    Raises:
        ValueError: `clip_metrics` counted entropies far below 0.
    """
    values = torch.stack([value.detach() for value in metrics.values()]).tolist()
    floats = dict(zip(metrics, values, strict=True))
    grp.refuse_impossible(floats.pop(IMPOSSIBLE, 0))
    return floats

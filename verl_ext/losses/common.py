"""What every policy loss here shares: precision, the clipped term, aggregation, metrics.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

# exp(20) is 4.9e8: far outside any clip range, and finite in float32 whatever it is multiplied with.
MAX_LOG_RATIO = 20.0


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


def bounded_exp(log_values: Tensor) -> Tensor:
    """exp of the argument clamped to [-20, 20]."""
    return log_values.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_term(ratio: Tensor, advantages: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """min(r A, clip(r, lower, upper) A), and where the clipped side is strictly smaller.

    `torch.minimum` would halve the gradient between the sides of a tie; here a tie keeps the unclipped
    side whole, so that a width of zero still learns on-policy. NaN in any argument reaches the result.

    Args:
        ratio, advantages, lower, upper: [B, T].

    Returns:
        [B, T] term, [B, T] bool clipped.
    """
    unclipped = ratio * advantages
    bounded = torch.maximum(torch.minimum(ratio.detach(), upper), lower) * advantages
    return torch.where(unclipped <= bounded, unclipped, bounded), bounded < unclipped


def row_mean_loss(row_objective: Tensor, response_mask: Tensor, batch: GlobalBatch) -> Tensor:
    """-sum_i J_i / G * dp_size: verl's `seq-mean-token-mean` once each row has its J_i.

    Args:
        row_objective: [B], 0 for an empty row.
        response_mask: [B, T] bool, used where `batch.global_batch_size` is None.
        batch: normalisers of the mini-batch.

    Returns:
        scalar, attached to the graph of `row_objective` even if every row is empty.

    Raises:
        ValueError: several ranks, and no global batch size that they could share.
    """
    rows = batch.global_batch_size
    if rows is None:
        if batch.dp_size > 1:
            raise ValueError(
                f"global_batch_size is None with dp_size={batch.dp_size}: each rank would divide by its own "
                "number of rows; put the mini-batch's row count into config.global_batch_info"
            )
        rows = response_mask.any(dim=-1).sum().clamp(min=1)
    return -row_objective.sum() / rows * batch.dp_size


def to_floats(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars on the device -> plain floats, moved in one transfer."""
    values = torch.stack([value.detach() for value in metrics.values()]).tolist()
    return dict(zip(metrics, values, strict=True))

"""Batches of a policy loss: what they hold, how they are cut and changed, and how they are written down.

Shapes: B rows, T tokens. Every tensor of a batch is [B, T].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

VOCAB = 64
MASK = "response_mask"
# What verl hands to a policy loss, in this order; the rest of a batch travels as a TokenContext.
ARGUMENTS = ("old_log_prob", "log_prob", "advantages", MASK)
WEIGHTS = "rollout_is_weights"
# Constant, as verl asks for in `seq-mean-token-sum-norm`: its default is the padded width.
SCALE_FACTOR = 6
# What stands behind the mask where nothing else is said; verl pads with 0, and -1 is no segment.
PAD = {"segment_ids": -1, "group_ids": -1}


@dataclass(frozen=True)
class Batch:
    """The rows of one call.

    Attributes:
        tensors: the four of `ARGUMENTS`, `rollout_is_weights` where the call has them, and fields of
            `verl_ext.TokenContext`; [B, T] each.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def mask(self) -> Tensor:
        """[B, T] bool."""
        return self.tensors[MASK]

    @property
    def rows(self) -> int:
        """B."""
        return self.mask.shape[0]

    @property
    def floats(self) -> list[str]:
        """Names of the tensors of floats."""
        return [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Batch:
        """Each tensor replaced by `change(name, tensor)`."""
        return Batch({name: change(name, tensor) for name, tensor in self.tensors.items()})

    def take(self, rows: slice | list[int]) -> Batch:
        """Some of the rows, in this order."""
        return self.map(lambda _, tensor: tensor[rows])

    def columns(self, columns: list[int]) -> Batch:
        """Some of the columns, segments numbered from 0 again."""
        batch = self.map(lambda _, tensor: tensor[:, columns])
        ids = batch.tensors.get("segment_ids")
        if ids is None:
            return batch
        rows = [torch.unique(row, return_inverse=True)[1] for row in torch.where(batch.mask, ids, ids.max() + 1)]
        return batch.replace(segment_ids=torch.stack(rows).masked_fill(~batch.mask, -1))

    def replace(self, **tensors: Tensor) -> Batch:
        """Tensors added or replaced."""
        return Batch({**self.tensors, **tensors})

    def without(self, *names: str) -> Batch:
        """Tensors left out."""
        return Batch({name: tensor for name, tensor in self.tensors.items() if name not in names})

    def widened(self, columns: int) -> Batch:
        """Masked columns appended, holding what verl pads with."""
        return self.map(lambda name, tensor: torch.nn.functional.pad(tensor, (0, columns), value=PAD.get(name, 0)))

    def cast(self, dtype: torch.dtype) -> Batch:
        """Floats in another dtype."""
        return self.map(lambda _, tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def normalisers(self, ranks: int = 1) -> dict[str, Any]:
        """verl's `config.global_batch_info` for a mini-batch that consists of these rows."""
        return {
            "dp_size": ranks,
            "batch_num_tokens": int(self.mask.sum()),
            "global_batch_size": self.rows,
            "loss_scale_factor": SCALE_FACTOR,
        }

    def to_json(self) -> dict[str, Any]:
        """Nested lists, shortest decimals that give the same float32; NaN and infinities as words."""
        return {name: to_lists(tensor) for name, tensor in self.tensors.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Batch:
        """The inverse of `to_json`."""
        return cls({name: from_lists(values) for name, values in data.items()})


def to_lists(tensor: Tensor) -> Any:
    """Nested lists of plain numbers, exact for float32; words for NaN and infinities, which JSON does not have."""
    if not tensor.is_floating_point():
        return tensor.tolist()

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [plain(item) for item in value]
        return float(str(value)) if np.isfinite(value) else str(value)

    return plain(tensor.detach().float().numpy())


def from_lists(values: Any) -> Tensor:
    """The inverse of `to_lists`: bool, long or float32."""
    flat = np.array(values, dtype=object).ravel().tolist()
    if flat and all(isinstance(value, bool) for value in flat):
        return torch.tensor(values)
    if all(isinstance(value, int) for value in flat):
        return torch.tensor(values, dtype=torch.long)
    return torch.tensor(np.array(values, dtype=object).astype(np.float32))


def in_words(tensor: Tensor) -> str:
    """A tensor as short text: nested lists, four decimals."""

    def words(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(words(item) for item in value) + "]"
        return (
            f"{value + 0.0:.6g}" if isinstance(value, float) else str(int(value) if isinstance(value, bool) else value)
        )

    return words(tensor.detach().tolist())

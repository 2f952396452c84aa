"""Token statistics over prompts and parts of prompts, for one block of whole prompts after another.

Made for ERPO, whose statistics are those of a prompt, of its buckets of relative position, and of its active rows. None
reaches beyond a prompt, so the temporaries of a block stay in the cache, and the memory does not grow with the batch.

All arithmetic is float64. The float64 sum of equal float32 numbers is exact, so equal signals centre to exactly 0; a
rounding error in their place would pass through two divisions by a tiny spread.

Shapes: B rows, b rows of a block, T tokens, C cells of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_ext.advantages.common import Rows

BLOCK_TOKENS = 2**20  # a block closes once it has this many, padding included


@dataclass(frozen=True)
class Cells:
    """Each row cut into cells; cells of one set, over several rows, share their statistics.

    Values are [b, T] and 0 outside the mask. Methods that end in _ change them.

    Attributes:
        hole: [b, T] bool, the complement of the mask.
        size: [b, C] float64, valid tokens of the cell.
        sets: [b, C] long in 0..count-1.
        count: number of sets.
        ids: [b, T] long, the token's cell; None where the row is the one cell.
    """

    hole: Tensor
    size: Tensor
    sets: Tensor
    count: int
    ids: Tensor | None = None

    def each(self, cells: Tensor) -> Tensor:
        """[b, C] -> the cell's number for each token, [b, T] or [b, 1]."""
        return cells if self.ids is None else cells.gather(1, self.ids)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the set of each cell, [b, C]."""
        if self.ids is None:
            total = values.sum(dim=1, keepdim=True)
        else:
            total = torch.zeros_like(self.size).scatter_add_(1, self.ids, values)
        both = torch.stack([total.flatten(), self.size.flatten()])
        totals, sizes = both.new_zeros(2, self.count).index_add_(1, self.sets.flatten(), both)
        return (totals / sizes.clamp(min=1))[self.sets]

    def centre_(self, values: Tensor) -> Tensor:
        """Values minus the mean of their set."""
        return values.sub_(self.each(self.mean(values))).masked_fill_(self.hole, 0)

    def std(self, centred: Tensor) -> Tensor:
        """Population std over the set of each cell, [b, C]."""
        return self.mean(centred.square()).sqrt()

    def z_score_(self, values: Tensor, delta: float) -> Tensor:
        """(x - mean) / (std + delta) within each set."""
        centred = self.centre_(values)
        return centred.div_(self.each(self.std(centred) + delta))


@dataclass(frozen=True)
class Block:
    """All rows of some prompts; each row has a valid token.

    Attributes:
        rows: [b] long, the rows' numbers in the batch.
        outcome: [b, 1] float64, A_i.
        prompts: [b, 1] long in 0..count-1.
        count: number of prompts.
        mask: [b, T] bool.
        hole: [b, T] bool, its complement.
        length: [b, 1] long, n_i.
    """

    rows: Tensor
    outcome: Tensor
    prompts: Tensor
    count: int
    mask: Tensor
    hole: Tensor
    length: Tensor

    def by_prompt(self) -> Cells:
        return Cells(self.hole, self.length.double(), self.prompts, self.count)

    def by_activity(self) -> Cells:
        """The active rows of each prompt, sign(A_i) != 0, and apart from them its other rows."""
        sets = 2 * self.prompts + (self.outcome != 0)
        return Cells(self.hole, self.length.double(), sets, 2 * self.count)

    def by_bucket(self, num_buckets: int) -> Cells:
        """The buckets k = floor(K t / n) of each prompt, in integers."""
        ids = self.mask.cumsum(dim=1).sub_(1).mul_(num_buckets)
        # A hole's t is that of the valid token before it, or -1; any bucket will do for its 0.
        ids.div_(self.length, rounding_mode="floor").clamp_(0, num_buckets - 1)
        k = torch.arange(num_buckets + 1, device=ids.device)
        first = (k * self.length + num_buckets - 1) // num_buckets  # K t >= k n from t = ceil(k n / K) on
        sets = self.prompts * num_buckets + k[:-1]
        return Cells(self.hole, first.diff(dim=1).double(), sets, self.count * num_buckets, ids)

    def read(self, values: Tensor) -> Tensor:
        """[B, T] -> the block's rows in float64, [b, T], without gradient, 0 outside the mask."""
        return self.clear_(values.detach()[self.rows].double())

    def write(self, values: Tensor, batch: Tensor) -> None:
        """The block's [b, T] into the [B, T] of the batch, 0 outside the mask."""
        batch[self.rows] = self.clear_(values).to(batch.dtype)

    def clear_(self, values: Tensor) -> Tensor:
        return values.masked_fill_(self.hole, 0)


def blocks(rows: Rows, outcome: Tensor) -> Iterator[Block]:
    """The batch as blocks of whole prompts; rows without valid tokens are in none."""
    order = rows.prompts.argsort(stable=True)[int((rows.prompts < 0).sum()) :]
    size = torch.bincount(rows.prompts[order], minlength=rows.count)
    first_row = size.cumsum(0) - size
    block_of_prompt = first_row * rows.mask.shape[-1] // BLOCK_TOKENS
    block_of_row = block_of_prompt[rows.prompts[order]]
    for chosen in order.split(block_of_row.unique_consecutive(return_counts=True)[1].tolist()):
        prompts = rows.prompts[chosen] - rows.prompts[chosen[0]]
        mask = rows.mask[chosen]
        yield Block(
            rows=chosen,
            outcome=outcome[chosen].double().unsqueeze(1),
            prompts=prompts.unsqueeze(1),
            count=int(prompts[-1]) + 1,
            mask=mask,
            hole=~mask,
            length=mask.sum(dim=1, keepdim=True),
        )

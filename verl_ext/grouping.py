"""Groups of tokens inside a row, and sums and means over them.

A grouping is a LongTensor [B, T] of 0-based ids, -1 where the token counts for nothing. Equal ids in one
row are one group; rows never share a group. Reductions are one scatter each, so their cost does not depend
on how many groups there are, and they are differentiable in the values.

Shapes: B rows, T tokens, K groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from verl_ext.hyper import ascending, check_call


def entropy_groups(
    entropy: Tensor, response_mask: Tensor, quantiles: Annotated[Sequence[float], ascending(above=0, below=1)]
) -> Tensor:
    """Groups of similar entropy, cut at quantiles of each row.

    The n valid tokens of a row are sorted by (entropy, position), ascending. The token of 0-based rank r
    is in group `#{k : r >= floor(q_k * n + 0.5)}`, so ties are broken by position and the sizes depend on n
    alone. With `[0.8]` the fifth of highest entropy is group 1, the rest group 0.

    ESPO, arXiv 2512.00499, sections 3.4 and 4.2.

    Args:
        entropy: [B, T] float, nats; ignored where the mask is 0, NaN included.
        response_mask: [B, T] bool or 0/1.
        quantiles: ascending numbers strictly between 0 and 1.

    Returns:
        [B, T] long, ids 0..len(quantiles), -1 where the mask is 0.

    Raises:
        ValueError: shapes differ, or the quantiles are not ascending inside (0, 1).

    Example:
        >>> import torch
        >>> entropy = torch.tensor([[0.1, 2.0, 0.3, 0.2, 0.4, 9.9]])
        >>> entropy_groups(entropy, torch.tensor([[1, 1, 1, 1, 1, 0]]), [0.8]).tolist()
        [[0, 1, 0, 0, 0, -1]]
    """
    check_call(entropy_groups, locals())
    check_same_shape(entropy=entropy, response_mask=response_mask)
    mask = response_mask.bool()
    # Invalid tokens sort to the end; the rank of a valid token is then its rank among the valid ones.
    order = entropy.detach().masked_fill(~mask, torch.inf).sort(dim=-1, stable=True).indices
    positions = torch.arange(mask.shape[-1], device=mask.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, positions)
    # float64: in float32 the product rounds up to the next half for some lengths and moves the cut.
    length = mask.sum(dim=-1, keepdim=True).double()
    groups = torch.zeros_like(rank)
    for q in quantiles:
        groups += rank >= torch.floor(q * length + 0.5)
    return groups.masked_fill(~mask, -1)


def threshold_groups(
    entropy: Tensor, response_mask: Tensor, thresholds: Annotated[Sequence[float], ascending(above=0)]
) -> Tensor:
    """Groups cut at fixed entropies: `#{k : entropy >= h_k}`, thresholds h_k in nats; -1 outside the mask.

    Args:
        entropy: [B, T] float, nats; ignored where the mask is 0.
        response_mask: [B, T] bool or 0/1.
        thresholds: nats, ascending, each above 0.

    Returns:
        [B, T] long, ids 0..len(thresholds), -1 where the mask is 0.

    Raises:
        ValueError: shapes differ, or the thresholds are not ascending numbers above 0.
    """
    check_call(threshold_groups, locals())
    check_same_shape(entropy=entropy, response_mask=response_mask)
    groups = torch.zeros(entropy.shape, dtype=torch.long, device=entropy.device)
    for threshold in thresholds:
        groups += entropy.detach() >= threshold
    return groups.masked_fill(~response_mask.bool(), -1)


def sequence_groups(response_mask: Tensor) -> Tensor:
    """One group a row: 0 where the mask is set, -1 elsewhere; [B, T] long."""
    return response_mask.bool().long() - 1


def token_groups(response_mask: Tensor) -> Tensor:
    """Each valid token its own group, numbered by column (so K = T); -1 elsewhere; [B, T] long."""
    columns = torch.arange(response_mask.shape[-1], device=response_mask.device)
    return columns.expand(response_mask.shape).masked_fill(~response_mask.bool(), -1)


def dense_ids(ids: Tensor) -> Tensor:
    """Ids of any size as ids below T with the same groups in each row; [B, T] long, -1 stays -1."""
    ordered, order = ids.sort(dim=-1)
    first = torch.zeros_like(ordered)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    rank = torch.empty_like(ids).scatter_(-1, order, first.cumsum(dim=-1))
    return rank.masked_fill(ids < 0, -1)


def group_sum(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Sum of `values` [B, T] over each group of each row: [B, K], 0 for a group without tokens.

    `values` must be finite outside the groups too (mask them first): a gradient of 0 times infinity is NaN.
    """
    slots = torch.where(groups < 0, num_groups, groups)
    sums = values.new_zeros(*values.shape[:-1], num_groups + 1).scatter_add(-1, slots, values)
    return sums[..., :num_groups]


def group_size(groups: Tensor, num_groups: int, dtype: torch.dtype) -> Tensor:
    """Number of tokens of each group: [B, K] in `dtype`."""
    return group_sum(torch.ones(groups.shape, dtype=dtype, device=groups.device), groups, num_groups)


def group_mean(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Mean of `values` [B, T] over each group of each row: [B, K], 0 for a group without tokens."""
    size = group_size(groups, num_groups, values.dtype)
    return group_sum(values, groups, num_groups) / size.clamp(min=1)


def group_range(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Greatest minus least of `values` [B, T] in each group: [B, K], 0 for a group without tokens."""
    slots = torch.where(groups < 0, num_groups, groups)
    start = values.new_zeros(*values.shape[:-1], num_groups + 1)
    top = start.scatter_reduce(-1, slots, values, "amax", include_self=False)
    bottom = start.scatter_reduce(-1, slots, values, "amin", include_self=False)
    return (top - bottom)[..., :num_groups]


def per_token(statistic: Tensor, groups: Tensor) -> Tensor:
    """Give each token its group's value: [B, K] -> [B, T], 0 where the id is -1."""
    if statistic.shape[-1] == 0:
        return statistic.new_zeros(groups.shape)
    return statistic.gather(-1, groups.clamp(min=0)).masked_fill(groups < 0, 0)


class Groups:
    """One grouping of the tokens, made ready for several reductions.

    A scatter costs a CPU as much as ten additions of [B, T], so a few groups are summed with a pass for each.

    Args:
        ids: [B, T] long, 0..count-1 where the mask is set.
        mask: [B, T] bool; tokens outside it are in no group, whatever their id.
        count: K.

    Attributes:
        size: [B, K] integers, tokens of each group.
    """

    FEW = 4
    # 0 times this is 0, unlike 0 times infinity: tokens of one group must not turn the sums of another into NaN.
    LARGEST = 1e30

    def __init__(self, ids: Tensor, mask: Tensor, count: int) -> None:
        few = 0 < count <= self.FEW
        self._count = count
        self._ids = None if few else ids.masked_fill(~mask, -1)
        self._members = [(ids == k) & mask for k in range(count)] if few else []
        self.size = self.tally(mask)

    @property
    def _factors(self) -> list[Tensor]:
        # torch multiplies floats by bytes several times faster than by bools.
        return [member.view(torch.uint8) for member in self._members]

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` [B, T], which are 0 outside the mask, over each group of each row: [B, K]."""
        if self._ids is not None:
            return group_sum(values, self._ids, self._count)
        return torch.stack([(values * factor).sum(dim=-1) for factor in self._factors], dim=-1)

    def mean(self, values: Tensor) -> Tensor:
        """The same for means; `values` are clamped to +-1e30."""
        return self.sum(values.clamp(-self.LARGEST, self.LARGEST)) / self.size.clamp(min=1)

    def mean_of_means(self, values: Tensor) -> Tensor:
        """Mean over the groups of each row, absent ones left out, of their means of `values` [B, T]: [B]."""
        present = (self.size > 0).sum(dim=-1)
        return (self.sum(values) / self.size.clamp(min=1)).sum(dim=-1) / present.clamp(min=1)

    def tally(self, flags: Tensor) -> Tensor:
        """How many of `flags` [B, T] bool are set in each group: [B, K] integers."""
        if self._ids is not None:
            return group_sum(flags.long(), self._ids, self._count)
        return torch.stack([(flags & member).sum(dim=-1, dtype=torch.int32) for member in self._members], dim=-1)

    def each(self, statistic: Tensor) -> Tensor:
        """Give each token its group's value: [B, K] -> [B, T], 0 outside the mask."""
        if self._ids is not None:
            return per_token(statistic, self._ids)
        columns = statistic.unsqueeze(-2).unbind(dim=-1)
        total = self._factors[0] * columns[0]
        for factor, column in zip(self._factors[1:], columns[1:], strict=True):
            total.addcmul_(factor, column)
        return total


# Rounding takes an entropy below 0, by tenths of a nat where logits are in bfloat16. What is further below is none.
LEAST_ENTROPY = -0.5


def impossible_entropies(response_mask: Tensor, **tensors: Tensor | None) -> Tensor:
    """How many valid tokens have an entropy far below 0; [], on the device, so that nothing waits for it.

    Args:
        response_mask: [B, T] bool or 0/1.
        **tensors: [B, T] or None; those whose name ends in `entropy` are looked at.
    """
    mask, count = response_mask.bool(), torch.zeros((), dtype=torch.long, device=response_mask.device)
    for name, values in tensors.items():
        if values is not None and name.endswith("entropy"):
            count = count + ((values < LEAST_ENTROPY) & mask).count_nonzero()
    return count


def refuse_impossible(count: float) -> None:
    """Raise ValueError where `impossible_entropies` found any."""
    if count:
        raise ValueError(
            f"{count:.0f} valid tokens have an entropy below {LEAST_ENTROPY:g} nats; an entropy is never negative, so "
            "these are none (log-probabilities, or of another sign), or the mask is not theirs"
        )


def check_same_shape(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors that are not None are [B, T] of one shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"these must all be [rows, tokens] of one shape, but they are {shapes}")

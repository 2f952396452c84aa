"""Groups and grouped reductions against plain Python."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verl_ext import grouping as grp

rows_of_entropy = st.lists(
    st.lists(st.sampled_from([None, 0.0, 0.5, 0.5, 1.25, 3.0]), min_size=7, max_size=7),
    min_size=1,
    max_size=4,
)
cut_lists = st.sampled_from([[0.8], [0.5], [0.2, 0.5, 0.9], [0.999], [0.001]])


def as_tensors(rows: list[list[float | None]]) -> tuple[Tensor, Tensor]:
    """None stands for a token that is masked; NaN lies behind it."""
    values = torch.tensor([[math.nan if x is None else x for x in row] for row in rows])
    return values, ~values.isnan()


@settings(max_examples=200, deadline=None)
@given(rows_of_entropy, cut_lists)
def test_quantile_groups_follow_the_definition(rows: list[list[float | None]], quantiles: list[float]) -> None:
    entropy, mask = as_tensors(rows)
    groups = grp.entropy_groups(entropy, mask, quantiles)
    assert groups.dtype == torch.long
    for row, got in zip(rows, groups.tolist(), strict=True):
        ranked = sorted((value, t) for t, value in enumerate(row) if value is not None)
        expected = [-1] * len(row)
        for rank, (_, t) in enumerate(ranked):
            expected[t] = sum(rank >= math.floor(q * len(ranked) + 0.5) for q in quantiles)
        assert got == expected


@settings(max_examples=50, deadline=None)
@given(rows_of_entropy)
def test_threshold_groups_follow_the_definition(rows: list[list[float | None]]) -> None:
    entropy, mask = as_tensors(rows)
    expected = [[-1 if x is None else (x >= 0.5) + (x >= 2) for x in row] for row in rows]
    assert grp.threshold_groups(entropy, mask, [0.5, 2.0]).tolist() == expected


def test_the_cut_is_placed_in_double_precision() -> None:
    # 0.7 is 0.6999...: 0.7 * 45 + 0.5 = 31.999... in float64, and 32 in float32.
    groups = grp.entropy_groups(torch.arange(45.0)[None], torch.ones(1, 45), [0.7])
    assert (groups == 0).sum() == 31


@pytest.mark.parametrize(("n", "top"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (10, 2), (1000, 200)])
def test_sizes_with_the_papers_fifth(n: int, top: int) -> None:
    groups = grp.entropy_groups(torch.rand(1, n), torch.ones(1, n), [0.8])
    assert (groups == 1).sum() == top


def test_ties_go_by_position() -> None:
    groups = grp.entropy_groups(torch.ones(1, 6), torch.tensor([[1, 0, 1, 1, 1, 1]]), [0.5])
    # n = 5, floor(2.5 + 0.5) = 3: the first three valid tokens stay below the cut.
    assert groups.tolist() == [[0, -1, 0, 0, 1, 1]]
    # An unstable sort keeps the order of a few equal values by luck, and of 200 no longer.
    groups = grp.entropy_groups(torch.ones(1, 200), torch.ones(1, 200), [0.5])
    assert groups.tolist() == [[0] * 100 + [1] * 100]


def test_sequence_and_token_groups() -> None:
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert grp.sequence_groups(mask).tolist() == [[0, -1, 0], [-1, -1, -1]]
    assert grp.token_groups(mask).tolist() == [[0, -1, 2], [-1, -1, -1]]


def test_reductions() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0, 100.0], [8.0, 16.0, 100.0, 100.0]])
    groups = torch.tensor([[0, 2, 0, -1], [1, 1, -1, -1]])  # ids need not be contiguous, nor groups present
    assert grp.group_sum(values, groups, 3).tolist() == [[5.0, 0.0, 2.0], [0.0, 24.0, 0.0]]
    assert grp.group_mean(values, groups, 3).tolist() == [[2.5, 0.0, 2.0], [0.0, 12.0, 0.0]]
    assert grp.group_size(groups, 3, torch.float32).tolist() == [[2.0, 0.0, 1.0], [0.0, 2.0, 0.0]]
    assert grp.group_range(values, groups, 3).tolist() == [[3.0, 0.0, 0.0], [0.0, 8.0, 0.0]]
    spread = grp.per_token(grp.group_mean(values, groups, 3), groups)
    assert spread.tolist() == [[2.5, 2.0, 2.5, 0.0], [12.0, 12.0, 0.0, 0.0]]


def test_the_mean_has_a_gradient() -> None:
    values = torch.ones(1, 4, requires_grad=True)
    groups = torch.tensor([[0, 0, 1, -1]])
    (grp.group_mean(values, groups, 2) * torch.tensor([[10.0, 3.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[5.0, 5.0, 3.0, 0.0]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_no_rows_and_no_tokens(shape: tuple[int, int]) -> None:
    values, mask = torch.zeros(shape), torch.zeros(shape)
    groups = grp.entropy_groups(values, mask, [0.8])
    assert groups.shape == shape
    assert grp.group_mean(values, groups, 2).shape == (shape[0], 2)
    assert grp.per_token(grp.group_mean(values, grp.token_groups(mask), shape[1]), groups).shape == shape


@pytest.mark.parametrize("quantiles", [[0.0], [1.0], [0.5, 0.5], [0.8, 0.2], [math.nan], 0.8])
def test_quantiles_out_of_order_or_range_are_refused(quantiles: Any) -> None:
    with pytest.raises(ValueError, match="must be a list of ascending numbers, each > 0 and < 1"):
        grp.entropy_groups(torch.zeros(1, 2), torch.ones(1, 2), quantiles)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"'entropy': \(1, 2\), 'response_mask': \(1, 3\)"):
        grp.entropy_groups(torch.zeros(1, 2), torch.ones(1, 3), [0.8])

"""The `espo` estimator: hand-computed values, verl's GRPO as a special case, rows that do not count."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_ext.advantages.espo import espo_advantage


def outcome(rewards: list[float], tokens: int = 3) -> tuple[Tensor, Tensor]:
    """Token-level rewards with all of a row's reward on its last token, and a full mask."""
    matrix = torch.zeros(len(rewards), tokens)
    matrix[:, -1] = torch.tensor(rewards)
    return matrix, torch.ones(len(rewards), tokens)


def per_row(rewards: list[float], index: list[str], verified: list[bool], failed: str = "unverified") -> list[float]:
    matrix, mask = outcome(rewards)
    advantages, returns = espo_advantage(matrix, mask, index, verified=torch.tensor(verified), failed=failed)
    assert returns is advantages  # as verl's GRPO returns them
    torch.testing.assert_close(advantages, advantages[:, :1].expand(-1, 3), rtol=0, atol=0, equal_nan=True)
    return advantages[:, 0].tolist()


def test_golden_unverified_rows_are_left_out() -> None:
    got = per_row([1.0, 0.0, 0.0, 9.0, 2.0, 4.0], ["a", "a", "a", "a", "b", "b"], [True] * 3 + [False] + [True] * 2)
    # a: {1, 0, 0}, mean 1/3, var ((2/3)^2 + 2 (1/3)^2)/2 = 1/3, std 0.577350: 1.154698, -0.577349 twice
    # b: {2, 4}, mean 3, std sqrt(2): -+ 1/(1.414214 + 1e-6) = -+ 0.707106
    assert got == pytest.approx([1.154698, -0.577349, -0.577349, 0.0, -0.707106, 0.707106], abs=1e-6)
    assert got[3] == 0


def test_golden_incorrect_rows_are_left_out_too() -> None:
    rewards, index = [1.0, 3.0, 0.0, -1.0, 5.0], ["a"] * 5
    got = per_row(rewards, index, [True, True, True, True, False], failed="incorrect")
    # {1, 3}: mean 2, std sqrt(2)
    assert got == pytest.approx([-0.707106, 0.707106, 0.0, 0.0, 0.0], abs=1e-6)


def test_incorrect_leaves_nothing_of_binary_rewards() -> None:
    assert per_row([1.0, 1.0, 0.0, 0.0], ["a"] * 4, [True] * 4, failed="incorrect") == [0.0] * 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_all_verified_is_verls_grpo(sizes: list[int], seed: int, scale: float) -> None:
    gen = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    matrix = scale * torch.randn(rows, 6, generator=gen)
    mask = torch.arange(6) < torch.randint(1, 7, (rows, 1), generator=gen)
    index = np.array([f"uid{k}" for k, size in enumerate(sizes) for _ in range(size)], dtype=object)
    order = torch.randperm(rows, generator=gen)
    index = index[order.numpy()]
    ours, _ = espo_advantage(matrix, mask, index, verified=torch.ones(rows))
    theirs, _ = compute_grpo_outcome_advantage(matrix.clone(), mask, index)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours.dtype == theirs.dtype


@pytest.mark.parametrize(
    ("rewards", "index"),
    [([0.3], ["a"]), ([0.1, 0.1, 0.1], ["a"] * 3), ([0.5, 0.5 + 9e-7], ["a"] * 2), ([1.0, 2.0], ["a", "b"])],
)
def test_nothing_to_compare_is_exactly_zero(rewards: list[float], index: list[str]) -> None:
    assert per_row(rewards, index, [True] * len(rewards)) == [0.0] * len(rewards)


def test_a_spread_just_above_the_limit_counts() -> None:
    assert per_row([0.5, 0.5 + 3e-6], ["a", "a"], [True, True])[1] > 0.1


def test_one_judged_row_of_many_is_a_group_of_one() -> None:
    assert per_row([1.0, 0.0, 0.0], ["a"] * 3, [True, False, False]) == [0.0] * 3


def test_padding_rows_enter_no_statistic_whatever_they_hold() -> None:
    matrix, mask = outcome([1.0, 0.0, math.nan, 7.0])
    mask[2:] = 0
    index = ["a", "a", "a", "pad"]
    advantages, _ = espo_advantage(matrix, mask, index, verified=torch.ones(4, dtype=torch.bool))
    # {1, 0}: mean 1/2, std sqrt(1/2)
    assert advantages[:, 0].tolist() == pytest.approx([0.707106, -0.707106, 0.0, 0.0], abs=1e-6)
    assert not advantages[2:].any()


def test_an_unverified_row_may_hold_nan_and_a_verified_one_may_not() -> None:
    assert per_row([1.0, 0.0, math.nan], ["a"] * 3, [True, True, False])[2] == 0
    got = per_row([1.0, 0.0, math.nan, 1.0, 0.0], ["a", "a", "a", "b", "b"], [True] * 5)
    assert all(math.isnan(x) for x in got[:3])
    assert got[3] > 0


def test_nothing_outside_the_mask_and_the_reward_is_not_masked() -> None:
    matrix, mask = outcome([1.0, 0.0])
    mask[:, -1] = 0  # the reward sits on the token that is masked
    advantages, _ = espo_advantage(matrix, mask, ["a", "a"], verified=torch.ones(2))
    assert advantages[0].tolist() == pytest.approx([0.707106, 0.707106, 0.0], abs=1e-6)


def test_large_rewards_keep_their_variance() -> None:
    # float32 holds 16777216 and 16777218, whose squares it cannot tell apart.
    assert per_row([2.0**24, 2.0**24 + 2], ["a", "a"], [True, True]) == pytest.approx([-0.707106, 0.707106], abs=1e-6)


def test_no_rows() -> None:
    advantages, _ = espo_advantage(torch.zeros(0, 3), torch.zeros(0, 3), [], verified=torch.zeros(0))
    assert advantages.shape == (0, 3)


def test_faults() -> None:
    matrix, mask = outcome([1.0, 0.0])
    with pytest.raises(ValueError, match="espo_advantage: failed='wrong' must be one of unverified, incorrect"):
        espo_advantage(matrix, mask, ["a", "a"], verified=torch.ones(2), failed="wrong")
    with pytest.raises(ValueError, match="2 rows of rewards, but 1 prompt ids"):
        espo_advantage(matrix, mask, ["a"], verified=torch.ones(2))
    with pytest.raises(ValueError, match=r"`verified` has shape \(3,\); it must have one entry for each of the 2 rows"):
        espo_advantage(matrix, mask, ["a", "a"], verified=torch.ones(3))

"""The `entropy_bonus` estimator: hand-computed values, verl's GRPO as a limit, bounds, and what must not matter."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from tests.losses.batches import Batch, edge_batches
from verl_ext.advantages.entropy_bonus import entropy_bonus_advantage

A = 0.7071058  # of two rows with rewards 1 and 0: 0.5 / (sqrt(0.5) + 1e-6)


def two_rows(entropy: list[list[float]], rewards: tuple[float, float] = (1.0, 0.0), **options: Any) -> Tensor:
    """One prompt; the first column is masked and holds the reward."""
    matrix = torch.zeros(2, len(entropy[0]))
    matrix[:, 0] = torch.tensor(rewards)
    mask = torch.ones_like(matrix)
    mask[:, 0] = 0
    got, returns = entropy_bonus_advantage(matrix, mask, ["a", "a"], old_entropy=torch.tensor(entropy), **options)
    assert returns is got
    return got


def random_outcome(batch: Batch, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Rewards, one of 0, 1 and 2 on each row's last column, the mask, and interleaved prompts."""
    gen = torch.Generator().manual_seed(seed)
    rows = len(batch.response_mask)
    rewards = torch.zeros(batch.response_mask.shape)
    rewards[:, -1:] = torch.randint(0, 3, (rows, 1), generator=gen).float()
    return rewards, batch.response_mask, torch.randint(0, 3, (rows,), generator=gen).numpy()


def test_golden() -> None:
    nan = math.nan
    # |A| / 2 = 0.3535529, and 0.4 H = 0, 0.2, 0.4 | 0.04, 0.32, 0.8
    got = two_rows([[nan, 0.0, 0.5, 1.0], [nan, 0.1, 0.8, 2.0]])
    want = [[0.0, A, A + 0.2, A + 0.3535529], [0.0, -A + 0.04, -A + 0.32, -A + 0.3535529]]
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-6, atol=1e-6)


def test_golden_with_the_values_of_tepos_tables() -> None:
    # |A| / 4 = 0.1767765, and 4e-4 H = 4e-4, 0.2 | 2e-4, 4
    got = two_rows([[0.0, 1.0, 500.0], [0.0, 0.5, 1e4]], scale=4e-4, kappa=4.0)
    want = [[0.0, A + 4e-4, A + 0.1767765], [0.0, -A + 2e-4, -A + 0.1767765]]
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-6, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(edge_batches, st.integers(0, 999), st.floats(0, 3), st.floats(1.01, 9))
def test_between_grpo_and_its_bound(batch: Batch, seed: int, scale: float, kappa: float) -> None:
    rewards, mask, index = random_outcome(batch, seed)
    got, _ = entropy_bonus_advantage(rewards, mask, index, old_entropy=batch.old_entropy, scale=scale, kappa=kappa)
    plain, _ = entropy_bonus_advantage(rewards, mask, index, old_entropy=batch.old_entropy, scale=0.0)
    bonus = got - plain
    assert (bonus >= 0).all()
    assert (bonus <= plain.abs() / kappa + 1e-6).all()
    assert (bonus <= scale * batch.old_entropy + 1e-6).all()
    assert torch.equal(got.sign(), plain.sign())
    assert not got[~mask].any()
    reached = torch.minimum(bonus - plain.abs() / kappa, torch.zeros(())).abs() < 1e-5
    assert (reached | ((bonus - scale * batch.old_entropy).abs() < 1e-5) | ~mask).all()


@settings(max_examples=50, deadline=None)
@given(edge_batches, st.integers(0, 999))
def test_without_the_bonus_it_is_verls_grpo(batch: Batch, seed: int) -> None:
    rewards, mask, index = random_outcome(batch, seed)
    mask = mask | (torch.arange(mask.shape[-1]) == 0)  # verl counts a row without tokens among its prompt
    ours, _ = entropy_bonus_advantage(rewards, mask, index, old_entropy=batch.old_entropy, scale=0.0)
    theirs, _ = compute_grpo_outcome_advantage(rewards.clone(), mask, index)
    several = torch.tensor([(index == prompt).sum() > 1 for prompt in index], dtype=torch.bool)  # verl: R, not 0
    torch.testing.assert_close(ours[several], theirs[several], rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(edge_batches, st.integers(0, 999))
def test_what_lies_behind_the_mask_and_the_order_of_rows_do_not_matter(batch: Batch, seed: int) -> None:
    rewards, mask, index = random_outcome(batch, seed)
    want, _ = entropy_bonus_advantage(rewards, mask, index, old_entropy=batch.old_entropy)
    for garbage in (math.nan, math.inf):
        dirty = batch.old_entropy.masked_fill(~mask, garbage)
        assert torch.equal(entropy_bonus_advantage(rewards, mask, index, old_entropy=dirty)[0], want)
    back = torch.arange(len(mask)).flip(0)
    got, _ = entropy_bonus_advantage(rewards[back], mask[back], index[::-1], old_entropy=batch.old_entropy[back])
    torch.testing.assert_close(got[back], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rewards", [(1.0, 1.0), (0.5, 0.5 + 9e-7)])
def test_no_spread_is_exactly_zero_even_with_an_entropy_rounded_below_zero(rewards: tuple[float, float]) -> None:
    assert torch.equal(two_rows([[0.0, 1.0, -1e-7], [0.0, 3.0, -1e-7]], rewards), torch.zeros(2, 3))


def test_a_group_of_one_is_exactly_zero_and_padding_rows_join_no_group() -> None:
    rewards, mask = torch.tensor([[1.0], [5.0], [5.0]]), torch.tensor([[1], [1], [0]])
    got, _ = entropy_bonus_advantage(rewards, mask, ["a", "b", "a"], old_entropy=torch.ones(3, 1))
    assert torch.equal(got, torch.zeros(3, 1))


@pytest.mark.parametrize("rewards", [(1.0, 0.0), (1.0, 1.0)])
def test_nan_at_a_valid_token_shows_and_only_there(rewards: tuple[float, float]) -> None:
    got = two_rows([[0.0, math.nan, 0.5], [0.0, 1.0, 0.5]], rewards)
    assert got.isnan().nonzero().tolist() == [[0, 1]]


def test_no_gradient_and_float32_at_least() -> None:
    entropy = torch.rand(2, 3, requires_grad=True)
    rewards = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    advantages, _ = entropy_bonus_advantage(rewards.bfloat16(), torch.ones(2, 3), [0, 0], old_entropy=entropy)
    assert advantages.dtype == torch.float32
    assert not advantages.requires_grad
    doubles, _ = entropy_bonus_advantage(rewards.double(), torch.ones(2, 3), [0, 0], old_entropy=entropy)
    assert doubles.dtype == torch.float64


def test_half_precision_entropies_are_computed_in_full() -> None:
    entropy = [[0.0, 0.3, 0.7], [0.0, 0.1, 0.9]]
    half = torch.tensor(entropy).bfloat16()
    rewards = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    got, _ = entropy_bonus_advantage(rewards, torch.ones(2, 3), [0, 0], old_entropy=half)
    want, _ = entropy_bonus_advantage(rewards, torch.ones(2, 3), [0, 0], old_entropy=half.float())
    assert torch.equal(got, want)


def test_faults() -> None:
    with pytest.raises(ValueError, match="kappa=0 must be a finite number > 0"):
        two_rows([[0.0], [0.0]], kappa=0)
    with pytest.raises(ValueError, match=r"'old_entropy': \(2, 2\)"):
        entropy_bonus_advantage(torch.ones(2, 3), torch.ones(2, 3), [0, 0], old_entropy=torch.ones(2, 2))
    with pytest.raises(ValueError, match="2 rows of rewards, but 1 prompt ids"):
        entropy_bonus_advantage(torch.ones(2, 3), torch.ones(2, 3), [0], old_entropy=torch.ones(2, 3))

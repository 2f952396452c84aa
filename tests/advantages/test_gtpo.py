"""The `gtpo` and `grpo_s` estimators: hand-computed values, verl's GRPO as a limit, the paper's conservation law."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_ext.advantages.gtpo import grpo_s_advantage, gtpo_advantage
from verl_ext.config import GRPOSAdvantageConfig, GTPOAdvantageConfig
from verl_ext.context import TokenContext, token_context
from verl_ext.plugin import ESTIMATORS

WIDE = {"entropy_low": 0.0, "entropy_high": 100.0}  # no entropy is clipped
BOTH = pytest.mark.parametrize("estimator", [gtpo_advantage, grpo_s_advantage])


def outcome(rewards: list[float], tokens: int) -> Tensor:
    """Token-level rewards with all of a row's reward on its first token."""
    matrix = torch.zeros(len(rewards), tokens)
    matrix[:, 0] = torch.tensor(rewards)
    return matrix


# Two successful rows of 2 and 1 tokens, two unsuccessful ones of 1 and 2.
REWARDS = outcome([1.0, 1.0, 0.0, 0.0], 2)
MASK = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 1]])
ENTROPY = torch.tensor([[3.0, 0.5], [1.0, math.nan], [0.5, math.nan], [0.25, 2.0]])


def test_golden_gtpo() -> None:
    got, returns = gtpo_advantage(REWARDS, MASK, ["a"] * 4, old_entropy=ENTROPY, alpha2=0.5, **WIDE)
    assert returns is got
    # mean H of the successful: (3 + 1)/2 = 2 at t = 0, 0.5 at t = 1 (one row is that long)
    #   r+ = 1 + 0.5 * 3/2 = 1.75, 1 + 0.5 * 0.5/0.5 = 1.5; 1 + 0.5 * 1/2 = 1.25
    # mean 1/H of the unsuccessful: (2 + 4)/2 = 3 at t = 0, 0.5 at t = 1
    #   r- = -1 - 0.5 * 2/3 = -4/3; -1 - 0.5 * 4/3 = -5/3, -1 - 0.5 * 1 = -1.5
    # over all 6 tokens, 3 of them 0: mean r+ 4.5/6 = 0.75, mean square (3.0625 + 2.25 + 1.5625)/6 = 1.1458333,
    #   std sqrt(1.1458333 - 0.5625) = 0.7637626
    # mean r- -4.5/6 = -0.75, mean square (1.7777778 + 2.7777778 + 2.25)/6 = 1.1342593,
    #   std sqrt(1.1342593 - 0.5625) = 0.7561477
    positive = [1.0 / 0.7637626, 0.75 / 0.7637626, 0.5 / 0.7637626]
    negative = [-0.5833333 / 0.7561477, -0.9166667 / 0.7561477, -0.75 / 0.7561477]
    want = [[positive[0], positive[1]], [positive[2], 0.0], [negative[0], 0.0], [negative[1], negative[2]]]
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-5, atol=1e-5)


def test_golden_gtpo_own() -> None:
    options: Any = {"alpha2": 0.5, "normalise_over": "own", **WIDE}
    got, _ = gtpo_advantage(REWARDS, MASK, ["a"] * 4, old_entropy=ENTROPY, **options)
    # r+ 1.75, 1.5, 1.25: mean 1.5, std sqrt(2 * 0.0625/3) = 0.2041241
    # r- -4/3, -5/3, -3/2: mean -1.5, std sqrt(2/36/3) = 0.1360828
    up, down = 0.25 / 0.2041241, (1 / 6) / 0.1360828
    torch.testing.assert_close(got, torch.tensor([[up, 0], [-up, 0], [down, 0], [-down, 0]]), rtol=1e-4, atol=1e-5)


def test_golden_grpo_s() -> None:
    got, returns = grpo_s_advantage(REWARDS, MASK, ["a"] * 4, old_entropy=ENTROPY, beta2=0.5, **WIDE)
    assert returns is got
    # mean entropies 1.75, 1 | 0.5, 1.125
    # successful, mean 1.375: r = 1 + 0.5 * 1.75/1.375 = 1.6363636, 1 + 0.5/1.375 = 1.3636364
    # unsuccessful, 1/H 2 and 0.8888889, mean 1.4444444: r = -1 - 0.5 * 2/1.4444444 = -1.6923077,
    #   -1 - 0.5 * 0.8888889/1.4444444 = -1.3076923
    # mean 0, unbiased variance (2.6776860 + 1.8595041 + 2.8639053 + 1.7100592)/3 = 3.0370515, std 1.7427139
    want = torch.tensor([1.6363636, 1.3636364, -1.6923077, -1.3076923]) / 1.7427139
    torch.testing.assert_close(got, torch.where(MASK.bool(), want.unsqueeze(-1), 0.0), rtol=1e-5, atol=1e-5)


def test_golden_clipped_entropies() -> None:
    rewards, mask = outcome([1.0, 1.0, 0.0], 2), torch.tensor([[1, 1], [1, 1], [1, 0]])
    entropy = torch.tensor([[5.0, 0.0], [0.01, 0.2], [0.01, 0.0]])
    got, _ = grpo_s_advantage(rewards, mask, ["a"] * 3, old_entropy=entropy)
    # Tokens clipped to 0.28, 0.2 and 0.2, 0.2, then averaged: 0.24 and 0.2, mean 0.22
    # r = 1 + 0.1 * 0.24/0.22 = 1.1090909, 1 + 0.1 * 0.2/0.22 = 1.0909091, -1.1; mean 0.3666667,
    # deviations 0.7424242, 0.7242424, -1.4666667, std sqrt((0.5511938 + 0.5245271 + 2.1511111)/2) = 1.2702043
    assert got[:, 0].tolist() == pytest.approx([0.5844920, 0.5701779, -1.1546699], abs=1e-5)
    got, _ = gtpo_advantage(rewards, mask, ["a"] * 3, old_entropy=entropy)
    # t = 0: 0.28 and 0.2, mean 0.24: r+ 1.1166667, 1.0833333; t = 1: 0.2 twice: r+ 1.1 twice; r- -1.1
    # 5 tokens, one of them 0: mean 4.4/5 = 0.88, mean square (1.2469444 + 1.1736111 + 2.42)/5 = 0.9681111,
    #   std sqrt(0.9681111 - 0.7744) = 0.4401263
    # r-: mean -0.22, mean square 1.21/5 = 0.242, std sqrt(0.242 - 0.0484) = 0.44, and -0.88/0.44 = -2
    up = [0.2366667 / 0.4401263, 0.2033333 / 0.4401263, 0.22 / 0.4401263]
    torch.testing.assert_close(got, torch.tensor([[up[0], up[2]], [up[1], up[2]], [-2, 0]]), rtol=1e-4, atol=1e-4)


sizes_of_prompts = st.lists(st.integers(2, 5), min_size=1, max_size=3)


def random_rows(sizes: list[int], seed: int, tokens: int) -> tuple[Tensor, Tensor, np.ndarray, Tensor]:
    """Rewards of 0 and 1, ragged masks of at least one token, prompt ids in random order, entropies."""
    gen = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    rewards = torch.zeros(rows, tokens)
    rewards[:, 0] = torch.randint(0, 2, (rows,), generator=gen).float()
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=gen)
    index = np.array([f"uid{k}" for k, size in enumerate(sizes) for _ in range(size)], dtype=object)
    order = torch.randperm(rows, generator=gen).numpy()
    return rewards, mask, index[order], torch.rand(rows, tokens, generator=gen) * 2


@settings(max_examples=60, deadline=None)
@given(sizes_of_prompts, st.integers(0, 2**32 - 1))
def test_equal_entropies_make_grpo_s_verls_grpo(sizes: list[int], seed: int) -> None:
    """Then r is beta1 + beta2 for success and the opposite for failure, and the z-score does not see the scale."""
    rewards, mask, index, entropy = random_rows(sizes, seed, 4)
    ours, _ = grpo_s_advantage(rewards, mask, index, old_entropy=torch.full_like(entropy, 0.7))
    theirs, _ = compute_grpo_outcome_advantage(rewards.clone(), mask, index)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(sizes_of_prompts, st.integers(0, 2**32 - 1))
def test_equal_entropies_and_lengths_make_gtpo_verls_grpo(sizes: list[int], seed: int) -> None:
    """With c = alpha1 + alpha2 and a share p of successes: (c - c p) / (c sqrt(p (1 - p))), GRPO's z-score, but for the
    population std, which is smaller by sqrt((G - 1)/G)."""
    rewards, mask, index, entropy = random_rows(sizes, seed, 4)
    full = torch.ones_like(mask)
    ours, _ = gtpo_advantage(rewards, full, index, old_entropy=torch.full_like(entropy, 0.7))
    theirs, _ = compute_grpo_outcome_advantage(rewards.clone(), full, index)
    size = torch.tensor([(index == uid).sum() for uid in index]).float().unsqueeze(-1)
    torch.testing.assert_close(ours, theirs * (size / (size - 1)).sqrt(), rtol=1e-4, atol=1e-4)


def test_rewards_are_conserved_at_each_place() -> None:
    """Proposition 2.2: with alpha1 + alpha2 = 1 the successful tokens at t sum to their number d_t. Seen through the
    z-score: r = mean + std A, so the successful tokens' mean A at every t is the same."""
    rewards, mask, index, entropy = random_rows([40], 3, 5)
    got, _ = gtpo_advantage(rewards, mask, index, old_entropy=entropy, alpha1=0.4, alpha2=0.6, **WIDE)
    for reward in (1.0, 0.0):
        chosen = mask & (rewards.sum(dim=-1, keepdim=True) == reward)
        means = torch.where(chosen, got, 0.0).sum(dim=0) / chosen.sum(dim=0)
        torch.testing.assert_close(means, means[:1].expand(5), rtol=1e-4, atol=1e-5)
        assert got[chosen].std() > 0.05


def test_uncertain_successes_earn_more_and_certain_failures_lose_more() -> None:
    rewards, mask, index, entropy = random_rows([30], 5, 4)
    got, _ = gtpo_advantage(rewards, mask, index, old_entropy=entropy, **WIDE)
    for t in range(4):
        won = rewards.sum(dim=-1) > 0
        for rows in (mask[:, t] & won, mask[:, t] & ~won):
            order = entropy[rows, t].argsort()
            assert (got[rows, t][order].diff() >= 0).all()


def test_one_prompt_does_not_touch_another_and_a_batch_does() -> None:
    rewards, mask, index, entropy = random_rows([4, 4], 8, 4)
    rewards[:, 0] = torch.tensor([1.0, 0.0] * 4)
    index = np.array(["a"] * 4 + ["b"] * 4, dtype=object)
    for estimator in (gtpo_advantage, grpo_s_advantage):
        for scope, same in (("prompt", True), ("batch", False)):
            both, _ = estimator(rewards, mask, index, old_entropy=entropy, scope=scope, **WIDE)
            alone, _ = estimator(rewards[:4], mask[:4], index[:4], old_entropy=entropy[:4], scope=scope, **WIDE)
            assert torch.allclose(both[:4], alone, atol=1e-6) == same


def test_a_batch_of_one_prompt_is_the_prompt() -> None:
    rewards, mask, index, entropy = random_rows([6], 8, 4)
    for estimator in (gtpo_advantage, grpo_s_advantage):
        prompt, batch = (estimator(rewards, mask, index, old_entropy=entropy, scope=s)[0] for s in ("prompt", "batch"))
        torch.testing.assert_close(prompt, batch)


@BOTH
@pytest.mark.parametrize("scope", ["prompt", "batch"])
def test_a_prompt_without_spread_is_exactly_0_and_in_no_statistic(estimator: Any, scope: str) -> None:
    entropy = torch.rand(6, 3) + 0.1
    rewards = outcome([1.0, 0.0, 1.0, 1.0, 1.0 + 5e-7, 1.0], 3)
    index = ["a", "a", "b", "b", "b", "alone"]
    got, _ = estimator(rewards, torch.ones(6, 3), index, old_entropy=entropy, scope=scope)
    assert not got[2:].any()
    want, _ = estimator(rewards[:2], torch.ones(2, 3), index[:2], old_entropy=entropy[:2], scope=scope)
    torch.testing.assert_close(got[:2], want)


def test_a_weight_does_not_turn_rounding_into_spread() -> None:
    rewards = outcome([1.0, 1.0 + 5e-7], 1)
    options: Any = {"old_entropy": torch.ones(2, 1), "beta1": 100.0}
    assert not grpo_s_advantage(rewards, torch.ones(2, 1), ["a", "a"], **options)[0].any()


@BOTH
def test_padding_and_gaps_change_nothing(estimator: Any) -> None:
    """A place is counted along the valid tokens, so a gap before a token does not move it."""
    rewards, mask, index, entropy = random_rows([5], 11, 4)
    rewards[:, 0] = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    mask[:3] = True
    plain, _ = estimator(rewards, mask, index, old_entropy=entropy, **WIDE)

    def spread_out(values: Tensor, fill: float) -> Tensor:
        wide = torch.full((6, 10), fill, dtype=values.dtype)
        wide[:5, 1:5], wide[:5, 7:9] = values[:, [0, 1, 2, 3]], fill
        wide[0, 1:9] = fill
        wide[0, [1, 3, 4, 8]] = values[0]  # row 0 with gaps
        return wide

    moved_mask = spread_out(mask, False)
    got, _ = estimator(
        spread_out(rewards, 0.0), moved_mask, [*index, "uid0"], old_entropy=spread_out(entropy, math.nan), **WIDE
    )
    assert not got[~moved_mask].any()
    torch.testing.assert_close(got[moved_mask], plain[mask])


@BOTH
def test_nan_of_a_valid_token_stays_visible(estimator: Any) -> None:
    rewards, mask = outcome([1.0, 0.0, 1.0, 0.0], 2), torch.ones(4, 2)
    entropy = torch.full((4, 2), 0.25)
    entropy[0, 1] = math.nan
    got, _ = estimator(rewards, mask, ["a", "a", "b", "b"], old_entropy=entropy)
    assert got[:2].isnan().any()
    assert not got[2:].isnan().any()
    rewards[1, 0] = math.nan
    got, _ = estimator(rewards, mask, ["a", "a", "b", "b"], old_entropy=torch.full((4, 2), 0.25))
    assert got[:2].isnan().any()
    assert not got[2:].isnan().any()


@BOTH
def test_entropies_of_0_are_finite(estimator: Any) -> None:
    rewards = outcome([1.0, 1.0, 0.0, 0.0], 2)
    entropy = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    got, _ = estimator(rewards, torch.ones(4, 2), ["a"] * 4, old_entropy=entropy, **WIDE)
    assert got.isfinite().all()
    assert (got[:2] > 0).all()
    assert (got[2:] < 0).all()


@BOTH
def test_no_gradient_and_no_rows(estimator: Any) -> None:
    entropy = torch.rand(2, 3, requires_grad=True)
    got, _ = estimator(outcome([1.0, 0.0], 3), torch.ones(2, 3), ["a", "a"], old_entropy=entropy)
    assert not got.requires_grad
    for scope in ("prompt", "batch"):
        got, _ = estimator(torch.zeros(0, 3), torch.zeros(0, 3), [], old_entropy=torch.zeros(0, 3), scope=scope)
        assert got.shape == (0, 3)


@BOTH
def test_dtype_is_float32_at_least(estimator: Any) -> None:
    for dtype, want in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        rewards, entropy = outcome([1.0, 0.0], 3).to(dtype), torch.full((2, 3), 0.25, dtype=torch.bfloat16)
        assert estimator(rewards, torch.ones(2, 3), ["a", "a"], old_entropy=entropy)[0].dtype == want


@BOTH
def test_faults(estimator: Any) -> None:
    rewards, mask = outcome([1.0, 0.0], 3), torch.ones(2, 3)
    name = estimator.__name__.removesuffix("_advantage")
    with pytest.raises(ValueError, match=f"{name}_advantage: scope='all' must be one of prompt, batch"):
        estimator(rewards, mask, ["a", "a"], old_entropy=mask, scope="all")
    with pytest.raises(ValueError, match="2 rows of rewards, but 1 prompt ids"):
        estimator(rewards, mask, ["a"], old_entropy=mask)
    with pytest.raises(ValueError, match=r"old_entropy.*\(2, 4\)"):
        estimator(rewards, mask, ["a", "a"], old_entropy=torch.ones(2, 4))


def test_hyper_parameters_are_checked_and_reach_the_estimators() -> None:
    with pytest.raises(ValueError, match=r"algorithm.gtpo (.|\n)*entropy_low=0.5 must be <= entropy_high=0.28"):
        GTPOAdvantageConfig(entropy_low=0.5)
    with pytest.raises(ValueError, match=r"algorithm.grpo_s (.|\n)*unknown key 'alpha1'(.|\n)*beta2=-1 must be"):
        GRPOSAdvantageConfig(alpha1=1.0, beta2=-1)  # type: ignore[call-arg]
    rewards, mask, index, entropy = random_rows([6], 8, 4)
    for name, estimator, hyper in (
        ("gtpo", gtpo_advantage, {"alpha1": 0.5, "alpha2": 0.3, "normalise_over": "own", "entropy_low": 0.0}),
        ("grpo_s", grpo_s_advantage, {"beta1": 0.5, "beta2": 0.3, "entropy_high": 3.0}),
    ):
        node = OmegaConf.create({"norm_adv_by_std_in_grpo": True, name: hyper})
        with token_context(TokenContext(old_entropy=entropy)):
            got, _ = ESTIMATORS[name](rewards, mask, index=index, config=node)
        assert torch.equal(got, estimator(rewards, mask, index, old_entropy=entropy, **hyper)[0])

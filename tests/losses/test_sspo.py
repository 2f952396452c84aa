"""The `sspo` loss: the paper's equations by hand and in closed form, reductions to verl's losses, what must not matter.

Equation numbers are those of arXiv 2511.04256.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo import core_algos

from tests.losses import batches as data
from tests.losses.batches import Batch, Step, assert_same_step, random_batch
from verl_ext import register
from verl_ext.config import SSPOLossConfig
from verl_ext.context import MissingTokenData, TokenContext, token_context
from verl_ext.losses import sspo
from verl_ext.losses.common import GlobalBatch
from verl_ext.losses.sspo import AGGREGATIONS, sspo_loss, token_data

E02, E_02, E_05, E03 = 1.2214027582, 0.8187307531, 0.6065306597, 1.3498588076  # e to the 0.2, -0.2, -0.5, 0.3
WIDE: dict[str, Any] = {"entropy_clip": False, "clip_ratio_low": 1.0, "clip_ratio_high": 1e9}  # nothing is clipped
BEYOND = [0, 5, 13, 14, 10**12]  # names of segments that no count of tokens bounds

bounds = st.fixed_dictionaries(
    {
        "entropy_clip": st.booleans(),
        "alpha": st.sampled_from([0.0, 0.15]),
        "beta": st.sampled_from([0.0, 0.8, 1.0]),
        "gamma": st.sampled_from([1.0, 1.75, 2.2]),
        "clip_ratio_low": st.sampled_from([0.0, 0.2]),
        "clip_ratio_high": st.sampled_from([0.0, 0.28]),
        "loss_agg_mode": st.sampled_from(AGGREGATIONS),
    }
)


def run(batch: Batch, ids: Tensor, /, **options: Any) -> Step:
    return data.step(sspo_loss, batch, segment_ids=ids, **{"old_entropy": batch.old_entropy, **options})


def names(batch: Batch, seed: int) -> Tensor:
    """Segments of tokens that need not be neighbours, under names in any order; garbage where the mask is 0."""
    gen = torch.Generator().manual_seed(seed)
    drawn = torch.tensor(BEYOND)[torch.randint(len(BEYOND), batch.response_mask.shape, generator=gen)]
    return torch.where(batch.response_mask, drawn, torch.randint(-5, 99, drawn.shape, generator=gen))


def golden() -> tuple[Batch, Tensor]:
    """Two rows, A = 1 and -2; behind the mask stands what must not be read.

    Row 0: segments of 3 and 2 tokens, mean d = 0.2 and -0.2, mean H = 0.2 and 0.6
    Row 1: segments of 1 and 2 tokens, mean d = -0.5 and 0.3, mean H = 0.1 and 0.9
    """
    hidden = math.nan
    d = torch.tensor([[0.3, 0.0, 0.3, -0.1, -0.3], [-0.5, 0.4, 0.2, hidden, hidden]], dtype=torch.float64)
    entropy = torch.tensor([[0.1, 0.2, 0.3, 0.5, 0.7], [0.1, 1.0, 0.8, hidden, hidden]], dtype=torch.float64)
    advantages = torch.tensor([[1.0], [-2.0]], dtype=torch.float64).expand(2, 5)
    ids = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, -1, -1]])
    return Batch(torch.full_like(d, -2.0), d - 2, advantages, ids >= 0, entropy), ids


# Defaults alpha = 0, beta = 0.8, gamma = 1.75, by equations 9 and 13 to 16:
#   row 0: [0.8, 1.2] = [min(1 - 0.2, 0.8), 1 + 0.2], s = e^0.2 = 1.2214027582  -> term 1.2, clipped above
#          [0.4, 1.6],                                s = e^-0.2 = 0.8187307531 -> term 0.8187307531
#   row 1: [0.8, 1.1], since 1 - 0.1 > 0.8,           s = e^-0.5 = 0.6065306597 -> -2 * 0.8, clipped below
#          [0.1, 1.75], since 1 + 0.9 > 1.75,         s = e^0.3 = 1.3498588076  -> -2 * 1.3498588076
TERMS = torch.tensor([[1.2, 1.2, 1.2, E_02, E_02], [-1.6, -2 * E03, -2 * E03, 0, 0]], dtype=torch.float64)
LEARNS = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])  # a clipped segment has no gradient


def test_golden_with_the_papers_aggregation() -> None:
    loss, grad, metrics = run(*golden())
    # row 0: (3 * 1.2 + 2 * 0.8187307531) / 5 = 1.0474923012; row 1: (-1.6 + 2 * -2.6997176152) / 3 = -2.3331450768
    assert loss.item() == pytest.approx(-(1.0474923012 - 2.3331450768) / 2, abs=1e-9)
    # each token of a segment has the share 1/|y_i| of s A, equation 10: |y_ij| s A * 1/|y_ij|
    expected = -TERMS * LEARNS / torch.tensor([[5.0], [3.0]]) / 2
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)
    assert metrics == pytest.approx(
        {
            "actor/pg_clipfrac": (3 + 1) / 8,
            "actor/pg_clipfrac_high": 3 / 8,
            "actor/pg_clipfrac_low": 1 / 8,
            "actor/pg_clipfrac_lower": 0.0,
            "actor/ppo_kl": -(0.6 - 0.4 - 0.5 + 0.6) / 8,
            "actor/sspo/ratio": (3 * E02 + 2 * E_02 + E_05 + 2 * E03) / 8,
            "actor/sspo/eps_low": (3 * 0.2 + 2 * 0.6 + 0.2 + 2 * 0.9) / 8,
            "actor/sspo/eps_high": (3 * 0.2 + 2 * 0.6 + 0.1 + 2 * 0.75) / 8,
            "actor/sspo/segments": (2 + 2) / 2,
            "actor/sspo/segment_length": 8 / 4,
        },
        abs=1e-9,
    )


def test_golden_with_token_mean() -> None:
    loss, grad, _ = run(*golden(), loss_agg_mode="token-mean")
    # (3.6 + 1.6374615062 - 1.6 - 5.3994352304) / 8
    assert loss.item() == pytest.approx(1.7619737242 / 8, abs=1e-9)
    torch.testing.assert_close(grad, -TERMS * LEARNS / 8, rtol=1e-9, atol=1e-12)


def test_golden_with_fixed_bounds() -> None:
    loss, grad, metrics = run(*golden(), entropy_clip=False, clip_ratio_low=0.1, clip_ratio_high=0.25, old_entropy=None)
    # [0.9, 1.25]: row 0 is not clipped, A = 1 and s = 0.8187 below is no gain; row 1: -2 * 0.9, and -2 * 1.3498588076
    row0, row1 = (3 * E02 + 2 * E_02) / 5, (-1.8 - 4 * E03) / 3
    assert loss.item() == pytest.approx(-(row0 + row1) / 2, abs=1e-9)
    assert (grad != 0).tolist() == [[True] * 5, [False, True, True, False, False]]
    assert metrics["actor/pg_clipfrac"] == pytest.approx(1 / 8)
    assert (metrics["actor/sspo/eps_low"], metrics["actor/sspo/eps_high"]) == pytest.approx((0.1, 0.25))


def test_golden_with_advantages_that_differ_in_a_segment() -> None:
    batch, ids = golden()
    advantages = torch.tensor([[3.0, 1.0, -1.0, 4.0, -6.0], [-2.0, -2.0, -2.0, 0.0, 0.0]], dtype=torch.float64)
    loss, grad, metrics = run(replace(batch, advantages=advantages), ids)
    # row 0: mean A = 1, as before, and -1: min(-0.8187307531, -max(0.8187307531, 0.4)), not clipped
    assert loss.item() == pytest.approx(-((3.6 - 2 * E_02) / 5 - 2.3331450768) / 2, abs=1e-9)
    assert grad[0].tolist() == pytest.approx([0, 0, 0, E_02 / 10, E_02 / 10], abs=1e-9)
    assert metrics["actor/pg_clipfrac_high"] == 3 / 8


@pytest.mark.parametrize(
    ("alpha", "beta", "gamma", "entropy", "low", "high"),
    [
        (0.0, 0.8, 1.75, 0.0, 0.8, 1.0),  # certain: min(1 - 0, 0.8) and 1 + 0
        (0.0, 0.8, 1.75, 0.1, 0.8, 1.1),
        (0.0, 0.8, 1.75, 0.5, 0.5, 1.5),
        (0.0, 0.8, 1.75, 0.9, 0.1, 1.75),  # 1.9 is capped
        (0.0, 0.8, 1.75, 3.0, 0.0, 1.75),  # 1 - 3 is below the floor
        (0.0, 1.0, 1.75, 0.1, 0.9, 1.1),
        (0.0, 0.0, 1.75, 0.1, 0.0, 1.1),  # beta 0: no lower bound
        (0.15, 0.8, 2.2, 0.5, 0.5, 1.65),
        (0.15, 0.8, 2.2, 1.1, 0.0, 2.2),  # 2.25 is capped
        (0.5, 0.8, 1.0, 0.3, 0.7, 1.0),  # gamma 1: no room above
    ],
)
def test_bounds(alpha: float, beta: float, gamma: float, entropy: float, low: float, high: float) -> None:
    """Equations 14 and 15, read off the value: ratios of e^5 and e^-5 lie beyond every bound but 0."""

    def evaluate(log_ratio: float, advantage: float) -> Step:
        one = torch.ones(1, 1, dtype=torch.float64)
        batch = Batch(-9 * one, (log_ratio - 9) * one, advantage * one, one.bool(), entropy * one)
        return run(batch, torch.zeros(1, 1).long(), alpha=alpha, beta=beta, gamma=gamma)

    # The other sides are not bounded, as in PPO: there the clipped term is the greater one.
    expected = {(5, 1): high, (-5, -1): -max(low, math.exp(-5)), (5, -1): -math.exp(5), (-5, 1): math.exp(-5)}
    for (log_ratio, advantage), objective in expected.items():
        loss, _, metrics = evaluate(log_ratio, advantage)
        assert -loss.item() == pytest.approx(objective)
        assert metrics["actor/sspo/eps_low"] == pytest.approx(1 - low)
        assert metrics["actor/sspo/eps_high"] == pytest.approx(high - 1)


def test_a_width_of_zero_still_learns_on_policy() -> None:
    batch = replace(random_batch(0, 2, 6, drift=0.0, fill=1.0), old_entropy=torch.zeros(2, 6))
    ids = torch.tensor([[0, 0, 1, 1, 2, 2]]).expand(2, 6)
    _, grad, metrics = run(batch, ids, beta=1.0)
    assert metrics["actor/pg_clipfrac"] == 0
    means = batch.advantages.view(2, 3, 2).mean(-1).repeat_interleave(2, dim=-1)
    torch.testing.assert_close(grad, -means / 6 / 2)


def reference(
    batch: Batch, ids: Tensor, weights: Tensor, entropy_clip: bool, loss_agg_mode: str, **hyper: float
) -> Any:
    """Loss and closed-form gradient, segment by segment in Python floats."""
    grad = torch.zeros_like(batch.log_prob)
    valid = batch.response_mask.tolist()
    rows, total, tokens = sum(map(any, valid)), 0.0, sum(map(sum, valid))
    for i, row in enumerate(valid):
        for name in {ids[i, t].item() for t in range(len(row)) if row[t]}:
            members = [t for t in range(len(row)) if row[t] and ids[i, t] == name]

            def mean(values: Tensor, row: int = i, among: list[int] = members) -> float:
                return sum(values[row, t].item() for t in among) / len(among)

            s, a = math.exp(mean(batch.log_prob - batch.old_log_prob)), mean(batch.advantages)
            low, high = 1 - hyper["clip_ratio_low"], 1 + hyper["clip_ratio_high"]
            if entropy_clip:
                h = mean(batch.old_entropy)
                low, high = max(0, min(1 - h, hyper["beta"])), min(1 + hyper["alpha"] + h, hyper["gamma"])
            bounded = min(max(s, low), high) * a
            share = 1 / tokens if loss_agg_mode == "token-mean" else 1 / sum(row) / rows
            weight = share * sum(weights[i, t].item() for t in members)
            total -= weight * min(s * a, bounded)
            for t in members:  # equation 19: d log s / d log pi(y_t) = 1 / |y_ij|
                grad[i, t] = 0 if bounded < s * a else -weight * s * a / len(members)
    return torch.tensor(total, dtype=grad.dtype), grad


@settings(max_examples=300, deadline=None)
@given(data.edge_batches, bounds, st.integers(0, 99), st.booleans())
def test_every_option_against_the_equations(batch: Batch, options: Any, seed: int, weighted: bool) -> None:
    batch = batch.to(torch.float64)
    ids, shape = names(batch, seed), batch.response_mask.shape
    weights = 1 + weighted * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    loss, grad, _ = run(batch, ids, rollout_is_weights=weights if weighted else None, **options)
    expected = reference(batch, ids, weights, **options)
    torch.testing.assert_close(loss, expected[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grad, expected[1], rtol=1e-9, atol=1e-12)


def test_equation_10_and_autograd() -> None:
    """Without clips, twice: the printed gradient, and finite differences of the value."""
    batch = random_batch(6, 3, 8, drift=0.4).to(torch.float64)
    batch = replace(batch, advantages=batch.advantages[:, :1].expand(3, 8))
    ids = torch.arange(8).div(3, rounding_mode="floor").expand(3, 8)
    _, grad, _ = run(batch, ids, **WIDE)
    expected = torch.zeros_like(grad)
    for i in range(3):
        length = batch.response_mask[i].sum().item()
        for j in range(3):
            own = batch.response_mask[i] & (ids[i] == j)
            size = own.sum().item()
            ratio = (batch.log_prob - batch.old_log_prob)[i, own].exp().prod() ** (1 / size)
            expected[i, own] = 1 / 3 / length * size * ratio * batch.advantages[i, 0] / size
    torch.testing.assert_close(grad, -expected, rtol=1e-9, atol=1e-12)

    def value(log_prob: Tensor) -> Tensor:
        return sspo_loss(batch.old_log_prob, log_prob, *batch.loss_args()[2:], segment_ids=ids, **WIDE)[0]

    assert torch.autograd.gradcheck(value, batch.with_leaf().log_prob)


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, st.sampled_from([(0.2, 0.2), (3e-4, 4e-4), (0.0, 0.0)]), st.sampled_from([0, 4, 10**9]))
def test_one_segment_and_fixed_bounds_is_gspo(batch: Batch, width: tuple[float, float], name: int) -> None:
    shape = batch.response_mask.shape
    batch = replace(batch, advantages=batch.advantages[:, :1].expand(shape))  # as GSPO's own estimator has them
    clip = {"clip_ratio_low": width[0], "clip_ratio_high": width[1]}
    ours = run(batch, torch.full(shape, name), entropy_clip=False, old_entropy=None, **clip)
    theirs = data.step(core_algos.compute_policy_loss_gspo, batch, "seq-mean-token-mean", data.actor_config(**clip))
    assert_same_step(batch, ours, theirs)


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, st.sampled_from([(0.2, 0.28), (3e-4, 4e-4), (0.0, 0.0)]), st.sampled_from(AGGREGATIONS))
def test_segments_of_one_token_are_vanilla(batch: Batch, width: tuple[float, float], mode: str) -> None:
    clip = {"clip_ratio_low": width[0], "clip_ratio_high": width[1]}
    ids = torch.arange(batch.response_mask.shape[1]).flip(0).expand(batch.response_mask.shape)
    ours = run(batch, ids, entropy_clip=False, old_entropy=None, loss_agg_mode=mode, **clip)
    config = data.actor_config(clip_ratio_c=1e9, **clip)
    assert_same_step(batch, ours, data.step(core_algos.compute_policy_loss_vanilla, batch, mode, config))


def test_aggregations_agree_only_where_rows_are_of_one_length() -> None:
    full = random_batch(2, 3, 6, drift=0.3, fill=1.0)
    ragged = replace(full, response_mask=torch.arange(6) < torch.tensor([[6], [3], [1]]))
    for batch, same in ((full, True), (ragged, False)):
        values = [run(batch, names(batch, 1), loss_agg_mode=mode)[0].item() for mode in AGGREGATIONS]
        assert (abs(values[0] - values[1]) < 1e-6) is same


@settings(max_examples=100, deadline=None)
@given(data.batches, bounds, st.integers(0, 99))
def test_segments_are_a_matter_of_equality(batch: Batch, options: Any, seed: int) -> None:
    """The same partition under other names: permuted, with holes, beyond T; and with the tokens in another order."""
    ids = names(batch, seed)
    plain = run(batch, ids, **options)
    ranks = torch.tensor([[BEYOND[::-1].index(name) if name in BEYOND else -1 for name in row] for row in ids.tolist()])
    for renamed in (ids + 10**9, ranks):
        again = run(batch, torch.where(batch.response_mask, renamed, -1), **options)
        assert_same_step(batch, again, plain)
    order = torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(seed))
    shuffled = Batch(*(values[:, order] for values in vars(batch).values()))
    loss, grad, metrics = run(shuffled, ids[:, order], **options)
    assert_same_step(batch, (loss, grad[:, order.argsort()], metrics), plain)


def test_rows_never_share_a_segment() -> None:
    batch = random_batch(4, 2, 5, drift=0.5, fill=1.0)
    same = run(batch, torch.zeros(2, 5).long())
    other = run(batch, torch.tensor([[0], [1]]).expand(2, 5))
    assert torch.equal(same[0], other[0])
    assert torch.equal(same[1], other[1])


@settings(max_examples=100, deadline=None)
@given(
    data.batches, bounds, st.sampled_from([math.nan, math.inf, -math.inf, 1e30]), st.sampled_from([-1, 3, -99, 2**60])
)
def test_what_lies_behind_the_mask_has_no_influence(batch: Batch, options: Any, garbage: float, name: int) -> None:
    weights = 1 + torch.rand(batch.response_mask.shape, generator=torch.Generator().manual_seed(1))
    hidden, ids = ~batch.response_mask, names(batch, 0)
    clean = run(batch, ids, rollout_is_weights=weights, **options)
    weights, ids = weights.masked_fill(hidden, garbage), ids.masked_fill(hidden, name)
    loss, grad, metrics = run(data.soiled(batch, garbage), ids, rollout_is_weights=weights, **options)
    assert torch.equal(clean[0], loss)
    assert torch.equal(clean[1], grad)
    assert not grad[hidden].any()
    assert clean[2] == metrics


def test_fixed_bounds_do_not_read_the_entropies() -> None:
    batch = random_batch(1, 3, 7, drift=0.2)
    poisoned = torch.full_like(batch.old_entropy, math.nan)
    options = {"entropy_clip": False, "clip_ratio_high": 0.05}
    with_nan, without = (run(batch, names(batch, 0), old_entropy=h, **options) for h in (poisoned, None))
    assert torch.equal(with_nan[0], without[0])
    assert with_nan[2] == without[2]


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, bounds, st.integers(0, 4))
def test_micro_batches_and_ranks_sum_to_the_whole(batch: Batch, options: Any, cut: int) -> None:
    shared = {"batch_num_tokens": 31, "global_batch_size": 6}
    ids = names(batch, cut)
    whole = run(batch, ids, batch=GlobalBatch(**shared), **options)
    ranks = [slice(0, cut), slice(cut, None)]
    half = [run(batch.rows(rows), ids[rows], batch=GlobalBatch(dp_size=2, **shared), **options) for rows in ranks]
    torch.testing.assert_close((half[0][0] + half[1][0]) / 2, whole[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([half[0][1], half[1][1]]) / 2, whole[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("mode", AGGREGATIONS)
def test_nothing_to_learn_from_is_zero_and_attached(shape: tuple[int, int], mode: str) -> None:
    empty = random_batch(0, *shape, drift=0.1, fill=0.0)
    keys = run(*golden())[2].keys()
    for fixed in ({}, {"global_batch_size": 4, "batch_num_tokens": 9}):
        loss, grad, metrics = run(empty, names(empty, 0), loss_agg_mode=mode, batch=GlobalBatch(**fixed))
        assert loss.item() == 0
        assert not grad.any()
        assert metrics == dict.fromkeys(keys, 0.0)


@pytest.mark.parametrize("shift", [500.0, -500.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_ratios_stay_finite(shift: float, sign: float) -> None:
    batch = random_batch(2, 2, 5, drift=0.0, fill=1.0)
    batch = replace(batch, log_prob=batch.log_prob + shift, advantages=sign * torch.ones(2, 5))
    for options in (WIDE, {}):
        loss, grad, metrics = run(batch, names(batch, 0), **options)
        assert loss.isfinite()
        assert grad.isfinite().all()
        assert metrics["actor/sspo/ratio"] == pytest.approx(math.exp(math.copysign(20, shift)))


@pytest.mark.parametrize("name", ["log_prob", "old_log_prob", "advantages", "old_entropy"])
def test_nan_at_a_valid_token_is_not_hidden(name: str) -> None:
    batch = random_batch(2, 2, 5, drift=0.1, fill=1.0)
    getattr(batch, name)[0, 3] = math.nan
    assert run(batch, names(batch, 0))[0].isnan()


def test_nothing_but_the_log_probs_gets_a_gradient() -> None:
    batch = random_batch(6, 3, 8, drift=0.3, fill=1.0)
    others = [batch.old_log_prob, batch.advantages, batch.old_entropy]
    for tensor in others:
        tensor.requires_grad_()
    _, grad, _ = run(batch, names(batch, 0))
    assert grad.any()
    assert all(tensor.grad is None for tensor in others)


def test_the_ratio_carries_the_gradient_to_all_tokens_of_its_segment() -> None:
    batch = random_batch(3, 1, 4, drift=0.0, fill=1.0)
    batch = replace(batch, advantages=torch.tensor([[4.0, 0.0, 0.0, 0.0]]))
    _, grad, _ = run(batch, torch.tensor([[0, 0, 1, 0]]), **WIDE)
    # s = 1 and A = 4/3 in the segment of three, 0 in the other; 1/4 of the row for each token
    torch.testing.assert_close(grad, torch.tensor([[-1 / 3, -1 / 3, 0.0, -1 / 3]]))


def test_precision_is_float32_at_least() -> None:
    batch = random_batch(4, 3, 9, drift=0.01)
    ids = names(batch, 0)
    double = run(batch.to(torch.float64), ids)[0]
    assert double.dtype == torch.float64
    torch.testing.assert_close(run(batch, ids)[0].double(), double, rtol=1e-5, atol=1e-7)
    low = batch.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(low, ids)[0]
    assert torch.equal(loss, run(low.to(torch.float32), ids)[0])


@settings(max_examples=50, deadline=None)
@given(data.edge_batches, bounds, st.integers(0, 99))
def test_metrics_are_plain_and_always_the_same(batch: Batch, options: Any, seed: int) -> None:
    metrics = run(batch, names(batch, seed), **options)[2]
    assert metrics.keys() == run(*golden())[2].keys()
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert metrics["actor/pg_clipfrac"] == pytest.approx(
        metrics["actor/pg_clipfrac_low"] + metrics["actor/pg_clipfrac_high"], abs=1e-6
    )


@pytest.mark.parametrize("name", [-1, -2, -(10**9)])
@pytest.mark.parametrize("others", [0, 10**9])
def test_a_valid_token_without_a_segment_is_an_error(name: int, others: int) -> None:
    batch = random_batch(0, 2, 5, drift=0.1, fill=1.0)
    ids = torch.full((2, 5), others)
    ids[1, 2:4] = name
    with pytest.raises(ValueError, match=r"^sspo: 2 valid tokens .*segment_ids.* mask"):
        run(batch, ids)
    batch.response_mask[1, 2:4] = False
    run(batch, ids)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_agg_mode": "token-sum"}, ["'token-sum'", "seq-mean-token-mean", "token-mean"]),
        ({"old_entropy": None}, ["old_entropy", "entropy_clip=True"]),
        ({"segment_ids": None, "old_entropy": None}, ["segment_ids", "old_entropy"]),
        ({"segment_ids": torch.zeros(2, 6).long()}, ["segment_ids", "(2, 6)", "(2, 5)"]),
        ({"old_entropy": torch.zeros(5)}, ["old_entropy", "(5,)"]),
        ({"batch": GlobalBatch(dp_size=2)}, ["global_batch_size", "dp_size=2"]),
        ({"batch": GlobalBatch(dp_size=2), "loss_agg_mode": "token-mean"}, ["batch_num_tokens", "dp_size=2"]),
    ],
)
def test_faults_say_what_and_what_instead(options: Any, words: list[str]) -> None:
    batch = random_batch(0, 2, 5, drift=0.1, fill=1.0)
    given_ = {"segment_ids": names(batch, 0), "old_entropy": batch.old_entropy, **options}
    with pytest.raises(ValueError, match=r"^(sspo|these must|global_batch_size|batch_num_tokens)") as raised:
        sspo_loss(*batch.loss_args(), **given_)
    for word in words:
        assert word in str(raised.value)


def test_needs_follow_the_options() -> None:
    assert token_data(entropy_clip=True) == ("segment_ids", "old_entropy")
    assert token_data(entropy_clip=False) == ("segment_ids",)


def test_through_the_registered_loss() -> None:
    register()
    batch = random_batch(1, 4, 9, drift=0.6)
    ids = names(batch, 0)
    info = {"dp_size": 2, "batch_num_tokens": 11, "global_batch_size": 8, "loss_scale_factor": None}
    hyper = {"alpha": 0.15, "beta": 0.7, "gamma": 1.3}
    config = data.actor_config(SSPOLossConfig(delimiter=".", **hyper), global_batch_info=info)
    registered = core_algos.get_policy_loss_fn("sspo")
    for context, field in (
        (TokenContext(segment_ids=ids), "old_entropy"),
        (TokenContext(old_entropy=ids), "segment_ids"),
    ):
        with token_context(context), pytest.raises(MissingTokenData, match=rf"`sspo` needs (.|\n)*{field}"):
            registered(*batch.loss_args(), "token-mean", config)
    with token_context(TokenContext(segment_ids=ids, old_entropy=batch.old_entropy)):
        loss, metrics = registered(*batch.loss_args(), "token-mean", config)
        with pytest.raises(ValueError, match="seq-mean-token-mean or token-mean"):
            registered(*batch.loss_args(), "seq-mean-token-sum", config)
    expected = run(batch, ids, batch=GlobalBatch(**info), loss_agg_mode="token-mean", **hyper)
    assert torch.equal(loss, expected[0])
    assert metrics == expected[2]
    assert metrics["actor/pg_clipfrac"] > 0


def test_ids_behind_the_mask_cost_no_second_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl_ext.segments puts -1 there, in nearly every batch."""
    batch, ids = golden()
    monkeypatch.setattr(sspo, "_refitted", lambda *_: pytest.fail("evaluated again"))
    run(batch, torch.where(batch.response_mask.bool(), ids, -1))

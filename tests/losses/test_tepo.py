"""The `tepo` loss: hand-computed values, a plain reference, reductions to verl's losses, and what must not matter."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo import core_algos

from tests.losses import batches as data
from tests.losses.batches import Batch, Step, assert_same_step, random_batch
from verl_ext import plugin, register
from verl_ext.config import TEPOLossConfig
from verl_ext.context import MissingTokenData, TokenContext, token_context
from verl_ext.losses import common
from verl_ext.losses.common import AGGREGATIONS, GlobalBatch
from verl_ext.losses.kl import KL_TYPES
from verl_ext.losses.tepo import CLIPS, KL_MASKS, RATIOS, tepo_loss, token_data

variants = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from(RATIOS),
        "clip": st.sampled_from(CLIPS),
        "kl_mask": st.sampled_from(KL_MASKS),
        "entropy_tol": st.sampled_from([0.0, 0.25, 0.3]),
        "kl_coef": st.sampled_from([0.0, 0.001, 1.0]),
        "kl_type": st.sampled_from(KL_TYPES),
        "loss_agg_mode": st.sampled_from(AGGREGATIONS),
    }
)
DOUBLE = {"dtype": torch.float64}
KEYS = data.CLIP_KEYS | {"actor/tepo/weight", "actor/tepo/kl_mask", "actor/tepo/kl"}


def run(batch: Batch, /, **options: Any) -> Step:
    options = {"entropy": data.current_entropy(batch), "old_entropy": batch.old_entropy, **options}
    return data.step(tepo_loss, batch, **options)


def golden() -> tuple[Batch, Tensor]:
    """Four rows of 2, 3, 2 and 1 valid tokens, and the current entropies.

    d:    0.3 0.1 | 0.4 0.2 0.3 | -0.5 -0.3 | 0.1     row means 0.2, 0.3, -0.4, 0.1
    A:    1       | -2          | -1        | 0.5
    H-Ho: -.1 +.1 | -.1 +.2 0   | -.1  +.1  | -.2
    """
    hidden = math.nan
    d = torch.tensor([[0.3, 0.1, hidden], [0.4, 0.2, 0.3], [-0.5, -0.3, hidden], [hidden, 0.1, hidden]], **DOUBLE)
    change = torch.tensor([[-0.1, 0.1, 9], [-0.1, 0.2, 0], [-0.1, 0.1, 9], [9, -0.2, 9]], **DOUBLE)
    old, old_entropy = torch.full_like(d, -1.0), torch.full_like(d, 2.0)
    advantages = torch.tensor([1.0, -2.0, -1.0, 0.5], **DOUBLE)[:, None].expand(4, 3)
    return Batch(old, old + d, advantages, ~d.isnan(), old_entropy), old_entropy + change


def test_golden_defaults() -> None:
    batch, entropy = golden()
    loss, grad, metrics = run(batch, entropy=entropy)
    # w = e^0.2 = 1.2214028, e^0.3 = 1.3498588, e^-0.4 = 0.6703200460, e^0.1 = 1.1051709181
    # min(w, clip(w, 0.8, 1.2)) = 1.2, 1.2, 0.6703200460 (the lower bound does not act), 1.1051709181
    # clipped terms: 2 * 1.2 * 1 - 3 * 1.2 * 2 - 2 * 0.6703200460 * 1 + 1 * 1.1051709181 * 0.5
    #              = 2.4 - 7.2 - 1.3406400921 + 0.5525854590 = -5.5880546330
    # A > 0 and falling entropy: token 0 of row 0, and row 3; e^-d + d - 1 = 0.7408182207 - 0.7 = 0.0408182207
    #              and 0.9048374180 - 0.9 = 0.0048374180, together 0.0456556387
    # loss = (5.5880546330 + 0.001 * 0.0456556387) / 8
    assert loss.item() == pytest.approx(0.698512536084, abs=1e-11)
    # rows 0 and 1 are bounded: the penalty alone, 0.001 (1 - e^-0.3) / 8 = 0.001 * 0.2591817793 / 8
    # row 2: -A w / 8 = 0.6703200460 / 8 for each token (2 tokens hold A, each d counts 1/2)
    # row 3: -0.5525854590 / 8 + 0.001 * 0.0951625820 / 8
    expected = torch.zeros(4, 3, **DOUBLE)
    expected[0, 0] = 3.2397722414e-05
    expected[2, :2] = 0.0837900057545
    expected[3, 1] = -0.0690731823798 + 1.1895322747e-05
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)
    assert metrics == pytest.approx(
        {
            "actor/pg_clipfrac": 5 / 8,
            "actor/pg_clipfrac_low": 0.0,
            "actor/pg_clipfrac_high": 5 / 8,
            "actor/pg_clipfrac_lower": 0.0,
            "actor/ppo_kl": -(0.4 + 0.9 - 0.8 + 0.1) / 8,
            "actor/tepo/weight": (2 * 1.2214027582 + 3 * 1.3498588076 + 2 * 0.6703200460 + 1.1051709181) / 8,
            "actor/tepo/kl_mask": 2 / 8,
            "actor/tepo/kl": 0.0456556387 / 8,
        },
        rel=1e-9,
    )


def test_golden_ppo_clip_in_every_aggregation() -> None:
    batch, entropy = golden()
    # min(w A, clip(w) A) per token: 1.2; -2 * 1.3498588076 = -2.6997176152; -0.8; 0.5525854590
    # sums of the rows: 2.4; -8.0991528455; -1.6; 0.5525854590, together -6.7465673864
    # means of the rows: 1.2; -2.6997176152; -0.8; 0.5525854590, together -1.7471321561
    expected = {
        "token-mean": 6.7465673864 / 8,
        "token-sum": 6.7465673864,
        "seq-mean-token-sum": 6.7465673864 / 4,
        "seq-mean-token-sum-norm": 6.7465673864 / 4 / 3,
        "seq-mean-token-mean": 1.7471321561 / 4,
    }
    for mode, value in expected.items():
        loss, _, metrics = run(batch, entropy=entropy, clip="ppo", kl_coef=0.0, loss_agg_mode=mode)
        assert loss.item() == pytest.approx(value, rel=1e-9), mode
        assert metrics["actor/pg_clipfrac_low"] == 2 / 8
        assert metrics["actor/pg_clipfrac_high"] == 2 / 8


def test_golden_ratios_without_clip() -> None:
    batch, entropy = golden()
    # token:  e^0.3 + e^0.1 - 2 (e^0.4 + e^0.2 + e^0.3) - (e^-0.5 + e^-0.3) + 0.5 e^0.1
    # prefix: e^0.3 + e^0.2 - 2 (e^0.4 + e^0.3 + e^0.3) - (e^-0.5 + e^-0.4) + 0.5 e^0.1
    # none:   A l, l = d - 1: (-0.7 - 0.9) - 2 (-0.6 - 0.8 - 0.7) - (-1.5 - 1.3) + 0.5 * -0.9
    e = math.exp
    expected = {
        "token": e(0.3) + e(0.1) - 2 * (e(0.4) + e(0.2) + e(0.3)) - (e(-0.5) + e(-0.3)) + 0.5 * e(0.1),
        "prefix": e(0.3) + e(0.2) - 2 * (e(0.4) + e(0.3) + e(0.3)) - (e(-0.5) + e(-0.4)) + 0.5 * e(0.1),
        "none": -1.6 + 4.2 + 2.8 - 0.45,
    }
    for ratio, total in expected.items():
        loss, _, metrics = run(batch, entropy=entropy, ratio=ratio, clip="none", kl_mask="none")
        assert loss.item() == pytest.approx(-total / 8, rel=1e-9), ratio
        assert metrics["actor/pg_clipfrac"] == 0
        assert metrics["actor/tepo/kl_mask"] == metrics["actor/tepo/kl"] == 0


@pytest.mark.parametrize(
    ("kl_mask", "tol", "tokens"),
    [
        ("pos_adv_entropy_down", 0.0, [(0, 0), (3, 1)]),
        ("pos_adv_entropy_down", 0.15, [(3, 1)]),
        ("neg_adv_entropy_up", 0.0, [(1, 1), (2, 1)]),
        ("neg_adv_entropy_up", 0.15, [(1, 1)]),
        ("either", 0.0, [(0, 0), (1, 1), (2, 1), (3, 1)]),
        ("either", 0.15, [(1, 1), (3, 1)]),
        ("all", 0.15, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 1)]),
        ("none", 0.0, []),
    ],
)
def test_which_tokens_are_penalised(kl_mask: str, tol: float, tokens: list[tuple[int, int]]) -> None:
    batch, entropy = golden()
    options = {"entropy": entropy, "kl_mask": kl_mask, "entropy_tol": tol, "kl_type": "k1"}
    free, _, _ = run(batch, **options, kl_coef=0.0)
    loss, _, metrics = run(batch, **options, kl_coef=10.0)
    d = batch.log_prob - batch.old_log_prob
    total = sum(d[token].item() for token in tokens)
    assert (loss - free).item() == pytest.approx(10 * total / 8, abs=1e-9)
    assert metrics["actor/tepo/kl_mask"] == pytest.approx(len(tokens) / 8)
    assert metrics["actor/tepo/kl"] == pytest.approx(total / 8, abs=1e-9)


def test_the_tolerance_itself_does_not_count() -> None:
    """Strict inequalities: a change of exactly the tolerance, and an advantage of 0, are not penalised."""
    advantages = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0]])
    batch = replace(random_batch(0, 1, 7, drift=0.1, fill=1.0), advantages=advantages)
    entropy = batch.old_entropy + torch.tensor([[-0.25, -0.5, 0.0, 0.25, 0.5, -1.0, 1.0]])
    shares = {mask: run(batch, entropy=entropy, kl_mask=mask, entropy_tol=0.25)[2] for mask in KL_MASKS}
    assert {mask: round(7 * metrics["actor/tepo/kl_mask"], 4) for mask, metrics in shares.items()} == {
        "pos_adv_entropy_down": 1,
        "neg_adv_entropy_up": 1,
        "either": 2,
        "all": 7,
        "none": 0,
    }


def reference(batch: Batch, entropy: Tensor, *, low: float, high: float, **options: Any) -> tuple[float, Tensor]:
    """Value and gradient, token by token in Python floats; for kl_type k1, k2 and low_var_kl."""
    old, new, advantage, ho, h = (
        t.double().tolist() for t in (batch.old_log_prob, batch.log_prob, batch.advantages, batch.old_entropy, entropy)
    )
    rows = [[t for t, valid in enumerate(row) if valid] for row in batch.response_mask.tolist()]
    value, grad = 0.0, torch.zeros_like(batch.log_prob, **DOUBLE)
    for i, row in enumerate(rows):
        for k, t in enumerate(row):
            share = token_share(options["loss_agg_mode"], rows, i, batch.log_prob.shape[1])
            read = {"sequence": row, "token": [t], "prefix": row[: k + 1]}.get(options["ratio"])
            a = advantage[i][t]
            if read is None:
                term, slope, read = a * new[i][t], a, [t]
            else:
                mean = sum(new[i][u] - old[i][u] for u in read) / len(read)
                term, slope = clipped(options["clip"], mean, a, low, high)
            for u in read:
                grad[i, u] -= share * slope / len(read)
            change, tol = h[i][t] - ho[i][t], options["entropy_tol"]
            down, up = a > 0 and change < -tol, a < 0 and change > tol
            masks = {"pos_adv_entropy_down": down, "neg_adv_entropy_up": up, "either": down or up, "all": True}
            if masks.get(options["kl_mask"], False):
                kl, kl_slope = kl_of(options["kl_type"], new[i][t] - old[i][t])
                term -= options["kl_coef"] * kl
                grad[i, t] += share * options["kl_coef"] * kl_slope
            value -= share * term
    return value, grad


def clipped(clip: str, mean: float, a: float, low: float, high: float) -> tuple[float, float]:
    """Term, and its derivative with respect to the mean of d."""
    w = math.exp(mean)
    bounded = min(max(w, 1 - low), 1 + high)
    if clip == "none" or (clip == "printed" and w <= bounded) or (clip == "ppo" and w * a <= bounded * a):
        return w * a, w * a
    return bounded * a, 0.0


def kl_of(kl_type: str, d: float) -> tuple[float, float]:
    if kl_type == "k1":
        return d, 1.0
    if kl_type == "k2":
        return d * d / 2, d
    value = math.exp(-d) + d - 1
    return (value, 1 - math.exp(-d)) if value < 10 else (10.0, 0.0)


def token_share(mode: str, rows: list[list[int]], i: int, width: int) -> float:
    """The weight of one token of row i in the aggregate."""
    tokens, filled = sum(map(len, rows)), sum(map(bool, rows))
    return {
        "token-mean": 1 / tokens,
        "token-sum": 1.0,
        "seq-mean-token-sum": 1 / filled,
        "seq-mean-token-sum-norm": 1 / filled / width,
        "seq-mean-token-mean": 1 / filled / len(rows[i]),
    }[mode]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("ratio", RATIOS)
@settings(max_examples=40, deadline=None)
@given(batch=data.edge_batches, options=variants, width=st.sampled_from([(0.2, 0.28), (3e-4, 4e-4)]))
def test_every_option_against_the_reference(
    ratio: str, clip: str, batch: Batch, options: Any, width: tuple[float, float]
) -> None:
    kl_type = options["kl_type"] if options["kl_type"] in ("k1", "k2") else "low_var_kl"
    options = {**options, "ratio": ratio, "clip": clip, "kl_type": kl_type}
    low, high = width
    batch = batch.to(torch.float64)
    loss, grad, _ = run(batch, clip_ratio_low=low, clip_ratio_high=high, **options)
    value, slope = reference(batch, data.current_entropy(batch), low=low, high=high, **options)
    assert loss.item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(grad, slope, rtol=1e-9, atol=1e-12)


def test_gradient_is_that_of_the_objective_and_not_the_printed_one() -> None:
    """Algorithm 1, step 6, prints A_t w / (|y| pi_t) d pi_t for L_t = w A_t: 1/M A_t w / |y| for a log-probability.

    But w depends on every token of the row: the derivative of step 5's objective 1/M sum_t w A_t with respect to
    one log-probability is 1/M w / |y| sum_t A_t, which for constant A is 1/M A w, larger by |y|.
    """
    batch = random_batch(3, 2, 4, drift=0.2, fill=1.0).to(torch.float64)
    batch.response_mask[1, 2:] = False
    length = torch.tensor([[4.0], [2.0]], **DOUBLE)
    valid = batch.response_mask.double()
    w = (((batch.log_prob - batch.old_log_prob) * valid).sum(-1, keepdim=True) / length).exp()
    for advantages in (batch.advantages, torch.tensor([[1.5], [-0.5]], **DOUBLE).expand(2, 4)):
        grad = run(replace(batch, advantages=advantages), clip="none", kl_coef=0.0)[1]
        summed = (advantages * valid).sum(-1, keepdim=True)
        torch.testing.assert_close(grad, -(w / length * summed * valid) / 6, rtol=1e-12, atol=1e-15)
    printed = -(advantages * valid * w / length) / 6
    torch.testing.assert_close(grad / length, printed, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(grad, printed)
    # One row of two tokens, d = 0, A = 1: the objective (w + w) / 2 = w has the derivative 1/2 at each token;
    # step 6 gives A w / |y| / M = 1/2 / 2 = 1/4.
    on_policy = torch.full((1, 2), -1.0, **DOUBLE)
    one = Batch(on_policy, on_policy, -on_policy, torch.ones(1, 2).bool(), -on_policy)
    assert run(one, clip="none", kl_coef=0.0)[1].tolist() == [[-1 / 2, -1 / 2]]


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, st.sampled_from([(0.2, 0.28), (3e-4, 4e-4), (0.0, 0.0)]), st.sampled_from(AGGREGATIONS))
def test_token_ratio_and_ppo_clip_is_vanilla(batch: Batch, width: tuple[float, float], mode: str) -> None:
    low, high = width
    options = {"clip_ratio_low": low, "clip_ratio_high": high}
    ours = run(batch, ratio="token", clip="ppo", kl_coef=0.0, loss_agg_mode=mode, **options)
    actor = data.actor_config(clip_ratio_c=1e9, **options)
    assert_same_step(batch, ours, data.step(core_algos.compute_policy_loss_vanilla, batch, mode, actor))


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, st.sampled_from([(0.2, 0.28), (3e-4, 4e-4), (0.0, 0.0)]))
def test_sequence_ratio_and_ppo_clip_is_gspo_where_advantages_are_constant(
    batch: Batch, width: tuple[float, float]
) -> None:
    mode, (low, high) = "seq-mean-token-mean", width
    batch = replace(batch, advantages=batch.advantages[:, :1].expand_as(batch.advantages).contiguous())
    options = {"clip_ratio_low": low, "clip_ratio_high": high}
    ours = run(batch, ratio="sequence", clip="ppo", kl_coef=0.0, loss_agg_mode=mode, **options)
    theirs = data.step(core_algos.compute_policy_loss_gspo, batch, mode, data.actor_config(**options))
    assert_same_step(batch, ours, theirs)


def test_sequence_ratio_has_not_gspos_gradient_where_advantages_differ() -> None:
    """GSPO gives a token its own advantage, a ratio with gradient the row's mean one; the values agree."""
    batch = random_batch(2, 3, 6, drift=0.05, fill=1.0)
    ours = run(batch, clip="ppo", kl_coef=0.0, loss_agg_mode="seq-mean-token-mean")
    theirs = data.step(core_algos.compute_policy_loss_gspo, batch, "seq-mean-token-mean", data.actor_config())
    torch.testing.assert_close(ours[0], theirs[0])
    assert (ours[1] - theirs[1]).abs().max() > 1e-2
    torch.testing.assert_close(ours[1].sum(-1), theirs[1].sum(-1))


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, st.sampled_from(AGGREGATIONS), st.sampled_from(CLIPS))
def test_no_ratio_is_gpg(batch: Batch, mode: str, clip: str) -> None:
    ours = run(batch, ratio="none", clip=clip, kl_coef=0.0, loss_agg_mode=mode)
    theirs = data.step(core_algos.compute_policy_loss_gpg, batch, mode, data.actor_config())
    assert_same_step(batch, ours, theirs)
    assert ours[2]["actor/pg_clipfrac"] == 0


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, st.sampled_from(CLIPS))
def test_prefix_ratio_at_the_last_valid_token_is_the_sequence_ratio(batch: Batch, clip: str) -> None:
    """Only the last valid token of each row has an advantage; masks have holes."""
    mask = batch.response_mask
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    batch = replace(batch, advantages=batch.advantages * last)
    prefix, sequence = (run(batch, ratio=ratio, clip=clip) for ratio in ("prefix", "sequence"))
    torch.testing.assert_close(prefix[0], sequence[0])
    torch.testing.assert_close(prefix[1], sequence[1])


def test_rows_of_one_token_have_one_ratio() -> None:
    batch = random_batch(4, 6, 1, drift=0.3, fill=1.0)
    for clip in CLIPS:
        first, *others = (run(batch, ratio=ratio, clip=clip) for ratio in ("token", "prefix", "sequence"))
        for other in others:
            assert torch.equal(first[0], other[0])
            assert torch.equal(first[1], other[1])


def test_holes_in_the_mask_are_passed_over() -> None:
    whole = random_batch(6, 2, 4, drift=0.3, fill=1.0)
    columns = torch.tensor([1, 2, 4, 5])
    holed = random_batch(7, 2, 7, drift=0.3, fill=0.0)
    for field in fields(holed):
        getattr(holed, field.name)[:, columns] = getattr(whole, field.name)
    for ratio in RATIOS:
        a, b = (run(x, ratio=ratio) for x in (whole, holed))
        torch.testing.assert_close(a[0], b[0])
        torch.testing.assert_close(a[1], b[1][:, columns])
        assert a[2] == pytest.approx(b[2], rel=1e-6)


@pytest.mark.parametrize("ratio", ["sequence", "token", "prefix"])
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_printed_clip_bounds_above_for_either_sign_and_never_below(ratio: str, sign: float) -> None:
    for d in (-30.0, -2.0, -0.3, 0.0, 0.1, 0.3, 2.0, 30.0):
        old = torch.full((1, 1), -1.0, **DOUBLE)
        batch = Batch(old, old + d, sign * torch.ones_like(old), torch.ones(1, 1).bool(), torch.ones_like(old))
        w = math.exp(max(d, -20.0))
        loss, grad, metrics = run(batch, ratio=ratio, kl_coef=0.0, clip_ratio_low=0.1, clip_ratio_high=0.28)
        assert loss.item() == pytest.approx(-sign * min(w, 1.28), rel=1e-12)
        assert grad.item() == pytest.approx(-sign * w if d > -20 and w < 1.28 else 0.0, rel=1e-12)
        assert metrics["actor/pg_clipfrac_high"] == metrics["actor/pg_clipfrac"] == float(sign != 0 and w > 1.28)


@settings(max_examples=50, deadline=None)
@given(data.edge_batches, variants)
def test_on_policy_there_is_no_penalty(batch: Batch, options: Any) -> None:
    batch = replace(batch, log_prob=batch.old_log_prob.clone())
    # The gradient of k1 and of |d| does not vanish with the value.
    options["kl_type"] = "low_var_kl"
    free, penalised = (run(batch, **{**options, "kl_coef": c}) for c in (0.0, 1.0))
    assert torch.equal(free[0], penalised[0])
    assert torch.equal(free[1], penalised[1])
    assert penalised[2]["actor/tepo/kl"] == 0


def test_a_width_of_zero_still_learns_on_policy() -> None:
    batch = random_batch(0, 2, 6, drift=0.0, fill=1.0)
    batch = replace(batch, advantages=torch.tensor([[1.0], [-2.0]]).expand(2, 6))
    for clip in CLIPS:
        _, grad, metrics = run(batch, clip=clip, clip_ratio_low=0.0, clip_ratio_high=0.0)
        assert metrics["actor/pg_clipfrac"] == 0
        torch.testing.assert_close(grad, -batch.advantages / 12)


@settings(max_examples=100, deadline=None)
@given(data.batches, variants, st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_what_lies_behind_the_mask_has_no_influence(batch: Batch, options: Any, garbage: float) -> None:
    data.assert_garbage_is_unseen(run, batch, garbage, **options)


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, variants, st.integers(0, 4))
def test_micro_batches_sum_to_the_whole(batch: Batch, options: Any, cut: int) -> None:
    data.assert_micro_batches_sum(run, batch, cut, **options)


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, variants)
def test_keys_are_the_same_for_all_options_and_data(batch: Batch, options: Any) -> None:
    loss, grad, metrics = run(batch, **options)
    assert metrics.keys() == KEYS
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert loss.isfinite()
    if not batch.response_mask.any():
        assert loss == 0
        assert not grad.any()
        assert not any(metrics.values())


def test_rollout_weights_multiply_the_penalty_as_well() -> None:
    batch = random_batch(5, 2, 3, drift=0.3, fill=1.0)
    once = run(batch, kl_mask="all", kl_coef=1.0)
    thrice = run(batch, kl_mask="all", kl_coef=1.0, rollout_is_weights=torch.full((2, 3), 3.0))
    torch.testing.assert_close(thrice[0], 3 * once[0])
    torch.testing.assert_close(thrice[1], 3 * once[1])


@pytest.mark.parametrize("name", ["log_prob", "old_log_prob", "advantages", "old_entropy", "entropy"])
@pytest.mark.parametrize("clip", CLIPS)
def test_nan_at_a_valid_token_is_not_hidden(name: str, clip: str) -> None:
    """Not that of an entropy either, which compares false and would switch the penalty off."""
    batch = random_batch(2, 2, 5, drift=0.1, fill=1.0)
    entropy = data.current_entropy(batch)
    (entropy if name == "entropy" else getattr(batch, name))[0, 3] = math.nan
    assert run(batch, entropy=entropy, clip=clip)[0].isnan()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("clip", CLIPS)
def test_huge_ratios_stay_finite(ratio: str, clip: str, sign: float) -> None:
    batch = random_batch(2, 2, 5, drift=0.0, fill=1.0)
    batch = replace(batch, log_prob=batch.log_prob + sign * 500)
    loss, grad, metrics = run(batch, ratio=ratio, clip=clip, kl_mask="all", kl_coef=1.0)
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert metrics["actor/ppo_kl"] == pytest.approx(-20 * sign)
    assert metrics["actor/tepo/kl"] == 10
    if ratio != "none":
        assert metrics["actor/tepo/weight"] == pytest.approx(math.exp(20 * sign), rel=1e-5)


def test_entropies_carry_no_gradient() -> None:
    batch = random_batch(6, 3, 8, drift=0.5, fill=1.0)
    entropy = data.current_entropy(batch).requires_grad_()
    batch.old_entropy.requires_grad_()
    run(batch, kl_mask="either", kl_coef=1.0, entropy=entropy)
    assert batch.old_entropy.grad is None
    assert entropy.grad is None


def test_precision_is_float32_at_least_and_autocast_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    original = common.aggregate

    def spied(*args: Any) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(*args)

    monkeypatch.setattr(common, "aggregate", spied)
    batch = random_batch(4, 3, 9, drift=0.01)
    plain, double = run(batch), run(batch.to(torch.float64))
    assert double[0].dtype == torch.float64
    torch.testing.assert_close(plain[0].double(), double[0], rtol=1e-5, atol=1e-7)
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(batch.to(torch.bfloat16))[0].dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False]


def test_needs_follow_the_options() -> None:
    for kl_mask in KL_MASKS:
        reads = kl_mask not in ("all", "none")
        assert token_data(kl_mask, 0.001) == (("entropy", "old_entropy") if reads else ())
        assert token_data(kl_mask, 0.0) == ()
    assert token_data(**TEPOLossConfig().resolved()) == ("entropy", "old_entropy")


def test_missing_entropies_are_an_error_through_the_registered_loss_and_only_where_needed() -> None:
    register()
    batch = random_batch(1, 2, 3, drift=0.1)
    call = (*batch.loss_args(), "token-mean")
    loss = core_algos.get_policy_loss_fn("tepo")
    with pytest.raises(MissingTokenData, match=r"`tepo` needs (.|\n)*entropy: set `actor\S*calculate_entropy=True`"):
        loss(*call, data.actor_config(TEPOLossConfig()))
    with (
        token_context(TokenContext(entropy=batch.old_entropy)),
        pytest.raises(MissingTokenData, match=r"old_entropy: (.|\n)*bypass_mode"),
    ):
        loss(*call, data.actor_config(TEPOLossConfig(kl_mask="either")))
    for options in ({"kl_coef": 0.0}, {"kl_mask": "all"}, {"kl_mask": "none"}):
        loss(*call, data.actor_config(TEPOLossConfig(**options)))


@pytest.mark.parametrize("mode", AGGREGATIONS)
def test_the_adapter_hands_everything_over(mode: str) -> None:
    batch = random_batch(1, 4, 9, drift=0.4)
    entropy, weights = data.current_entropy(batch), torch.rand(4, 9)
    info = {"dp_size": 2, "batch_num_tokens": 11, "global_batch_size": 8, "loss_scale_factor": 3}
    hyper = {
        "ratio": "prefix",
        "clip": "ppo",
        "kl_mask": "either",
        "entropy_tol": 0.25,
        "kl_coef": 1.0,
        "kl_type": "k2",
    }
    config = data.actor_config(TEPOLossConfig(**hyper), global_batch_info=info, clip_ratio_low=0.1, clip_ratio_high=0.3)
    with token_context(TokenContext(old_entropy=batch.old_entropy, entropy=entropy)):
        got = plugin.POLICY_LOSSES["tepo"](*batch.loss_args(), mode, config, rollout_is_weights=weights)
    want = tepo_loss(
        *batch.loss_args(),
        entropy=entropy,
        old_entropy=batch.old_entropy,
        clip_ratio_low=0.1,
        clip_ratio_high=0.3,
        loss_agg_mode=mode,
        batch=GlobalBatch(**info),
        rollout_is_weights=weights,
        **hyper,
    )
    assert torch.equal(got[0], want[0])
    assert got[1] == want[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_agg_mode": "mean"}, ["'mean'", "token-mean", "seq-mean-token-sum-norm"]),
        ({"ratio": "sequnce", "clip": "dual", "kl_mask": "both", "kl_type": "k4"}, ["sequnce", "dual", "both", "k4"]),
        ({"entropy": None}, ["needs entropy", "pos_adv_entropy_down"]),
        ({"entropy": None, "old_entropy": None}, ["needs entropy and old_entropy"]),
        *data.SHARED_FAULTS,
    ],
)
def test_faults_say_what_and_what_instead(options: Any, words: list[str]) -> None:
    data.assert_refused(run, options, words)

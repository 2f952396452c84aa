"""The `espo` loss: hand-computed values, reductions to verl's own losses, and what must not matter."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo, compute_policy_loss_vanilla

from tests.losses.batches import VOCAB, Batch, actor_config, batches, random_batch
from verl_ext.losses import common
from verl_ext.losses.common import GlobalBatch
from verl_ext.losses.espo import CLIPS, GROUPINGS, TOKEN_RATIOS, espo_loss, token_data

LOG_V = math.log(16)
variants = st.fixed_dictionaries(
    {
        "grouping": st.sampled_from(GROUPINGS),
        "token_ratio": st.sampled_from(TOKEN_RATIOS),
        "clip": st.sampled_from(CLIPS),
        "entropy_quantiles": st.sampled_from([(0.8,), (0.3, 0.6)]),
    }
).map(lambda options: {**options, "entropy_thresholds": (0.5, 1.7) if options["grouping"] == "threshold" else ()})


def run(batch: Batch, /, **options: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss, its gradient with respect to log_prob, metrics; `batch` among the options is the global one."""
    batch = batch.with_leaf()
    options = {"old_entropy": batch.old_entropy, "vocab_size": VOCAB, **options}
    loss, metrics = espo_loss(*batch.loss_args(), **options)
    loss.backward()
    assert batch.log_prob.grad is not None
    return loss.detach(), batch.log_prob.grad, metrics


def run_verl(fn: Any, batch: Batch, **keys: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    batch = batch.with_leaf()
    loss, metrics = fn(*batch.loss_args(), "seq-mean-token-mean", actor_config(**keys))
    loss.backward()
    assert batch.log_prob.grad is not None
    return loss.detach(), batch.log_prob.grad, metrics


def golden() -> Batch:
    """Two rows. Row 0 has n = 5, so group 1 starts at rank floor(0.8*5 + 0.5) = 4: the last token alone.
    Row 1 has n = 2, floor(0.8*2 + 0.5) = 2: no token has that rank, and there is one group.
    """
    d = torch.tensor([[0.2, 0.0, 0.2, 0.0, 0.1], [-0.2, -0.1, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    entropy = LOG_V * torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.9], [0.4, 0.6, 9.0, 9.0, 9.0]])
    advantages = torch.tensor([1.0, -1.0])[:, None].expand(2, 5)
    old = torch.full((2, 5), -1.0)
    return Batch(old, old + d, advantages, mask, entropy)


GOLDEN_OPTIONS = {"vocab_size": 16, "alpha": 0.2}


def test_golden_detached() -> None:
    loss, grad, metrics = run(golden(), **GOLDEN_OPTIONS)
    # row 0, group 0: s = exp((0.2+0+0.2+0)/4) = e^0.1 = 1.105171, eps = 0.2 * (0.1+0.2+0.3+0.4)/4 = 0.05
    #                 A = 1: min(1.105171, 1.05) = 1.05, clipped above
    # row 0, group 1: s = e^0.1 = 1.105171, eps = 0.2 * 0.9 = 0.18: inside [0.82, 1.18]
    # row 1, group 0: s = exp(-0.15) = 0.860708, eps = 0.2 * 0.5 = 0.1
    #                 A = -1: min(-0.860708, -0.9) = -0.9, clipped below
    # J = (1.05 + 1.105171)/2 = 1.0775855 and -0.9; loss = -(1.0775855 - 0.9)/2
    torch.testing.assert_close(loss, torch.tensor(-0.08879273), rtol=1e-6, atol=1e-7)
    # The one token that is not clipped: -1/2 rows * 1/2 groups * 1/1 token * r * A = -0.25 * 1.105171
    expected = torch.zeros(2, 5)
    expected[0, 4] = -0.27629273
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-8)

    assert metrics == pytest.approx(
        {
            "actor/pg_clipfrac": 6 / 7,
            "actor/pg_clipfrac_low": 2 / 7,
            "actor/pg_clipfrac_high": 4 / 7,
            "actor/pg_clipfrac_lower": 0.0,
            "actor/ppo_kl": -(0.5 - 0.3) / 7,
            # group 0: four tokens of row 0 and two of row 1
            "actor/espo/group0/ratio": (4 * 1.105171 + 2 * 0.860708) / 6,
            "actor/espo/group0/eps": (4 * 0.05 + 2 * 0.1) / 6,
            "actor/espo/group0/entropy": LOG_V * (1.0 + 1.0) / 6,
            "actor/espo/group0/clip_low": 2 / 6,
            "actor/espo/group0/clip_high": 4 / 6,
            "actor/espo/group0/tokens": 6 / 7,
            "actor/espo/group1/ratio": 1.105171,
            "actor/espo/group1/eps": 0.18,
            "actor/espo/group1/entropy": LOG_V * 0.9,
            "actor/espo/group1/clip_low": 0.0,
            "actor/espo/group1/clip_high": 0.0,
            "actor/espo/group1/tokens": 1 / 7,
        },
        rel=1e-5,
        abs=1e-7,
    )


def test_golden_old_ratio() -> None:
    loss, grad, metrics = run(golden(), token_ratio="old", alpha=0.4, vocab_size=16)
    # r_t = s_g e^{d_t}, widths doubled: 0.1, 0.36, 0.2
    # row 0, group 0, [0.9, 1.1]: e^0.3, e^0.1, e^0.3, e^0.1, all above 1.1 -> 1.1
    # row 0, group 1, [0.64, 1.36]: e^0.1 * e^0.1 = 1.221403, inside
    # row 1, [0.8, 1.2], A = -1: e^-0.35 = 0.704688 -> 0.8; e^-0.25 = 0.778801 -> 0.8
    # Reported is the mean of r_t: (2 * 1.349859 + 2 * 1.105171 + 0.704688 + 0.778801)/6
    assert metrics["actor/espo/group0/ratio"] == pytest.approx(1.0655915, rel=1e-6)
    assert metrics["actor/espo/group1/ratio"] == pytest.approx(1.2214028, rel=1e-6)
    # J = (1.1 + 1.221403)/2 = 1.1607014 and -0.8
    torch.testing.assert_close(loss, torch.tensor(-(1.1607014 - 0.8) / 2), rtol=1e-6, atol=1e-7)
    expected = torch.zeros(2, 5)
    expected[0, 4] = -0.25 * 1.2214028  # d/dl of r is r; s_g carries no gradient
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-8)


def test_golden_thresholds() -> None:
    loss, grad, metrics = run(
        golden(), grouping="threshold", entropy_thresholds=(0.25 * LOG_V, 0.5 * LOG_V), **GOLDEN_OPTIONS
    )
    # row 0: tokens {0, 1}: s = e^0.1 = 1.105171, eps = 0.2 * 0.15 = 0.03 -> 1.03
    #        tokens {2, 3}: s = e^0.1,             eps = 0.2 * 0.35 = 0.07 -> 1.07
    #        token  {4}:    s = e^0.1,             eps = 0.18              -> 1.105171
    # row 1, A = -1: token 0 (0.4 log V, group 1): s = e^-0.2 = 0.818731, eps = 0.08 -> -0.92
    #                token 1 (0.6 log V, group 2): s = e^-0.1 = 0.904837, eps = 0.12 -> -0.904837
    # J = (1.03 + 1.07 + 1.105171)/3 = 1.0683903; (-0.92 - 0.904837)/2 = -0.9124187
    torch.testing.assert_close(loss, torch.tensor(-(1.0683903 - 0.9124187) / 2), rtol=1e-6, atol=1e-7)
    assert grad.nonzero().tolist() == [[0, 4], [1, 1]]
    assert grad[0, 4].item() == pytest.approx(-1.105171 / 2 / 3, rel=1e-5)
    assert grad[1, 1].item() == pytest.approx(0.904837 / 2 / 2, rel=1e-5)
    assert [metrics[f"actor/espo/group{k}/tokens"] for k in range(3)] == pytest.approx([2 / 7, 3 / 7, 2 / 7])


@settings(max_examples=100, deadline=None)
@given(batches, st.sampled_from([(0.2, 0.2), (3e-4, 4e-4), (0.0, 0.0)]))
def test_one_group_and_fixed_clip_is_gspo(batch: Batch, width: tuple[float, float]) -> None:
    low, high = width
    ours = run(batch, grouping="sequence", clip="fixed", old_entropy=None, clip_ratio_low=low, clip_ratio_high=high)
    theirs = run_verl(compute_policy_loss_gspo, batch, clip_ratio_low=low, clip_ratio_high=high)
    assert_same_step(batch, ours, theirs)


@settings(max_examples=100, deadline=None)
@given(batches, st.sampled_from([(0.2, 0.28), (3e-4, 4e-4), (0.0, 0.0)]))
def test_token_groups_and_fixed_clip_is_vanilla(batch: Batch, width: tuple[float, float]) -> None:
    low, high = width
    ours = run(batch, grouping="token", clip="fixed", old_entropy=None, clip_ratio_low=low, clip_ratio_high=high)
    theirs = run_verl(compute_policy_loss_vanilla, batch, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=1e9)
    assert_same_step(batch, ours, theirs)


def assert_same_step(batch: Batch, ours: Any, theirs: Any) -> None:
    if not batch.response_mask.any():
        # verl divides 0 by 0 rows; here the value is 0.
        assert ours[0] == 0
        assert not ours[1].any()
        return
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    for key, value in theirs[2].items():
        assert ours[2][key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def test_old_ratio_is_gspo_no_longer() -> None:
    """Section 3.3 to the letter multiplies by the token's own ratio, which GSPO does not have."""
    batch = random_batch(0, 3, 8, drift=0.05)
    options = {"grouping": "sequence", "clip": "fixed", "clip_ratio_low": 0.9, "clip_ratio_high": 9.0}
    old = run(batch, token_ratio="old", **options)[0]
    detached = run(batch, token_ratio="detached", **options)[0]
    assert abs(old - detached) > 1e-4


@settings(max_examples=100, deadline=None)
@given(batches, variants, st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_what_lies_behind_the_mask_has_no_influence(batch: Batch, options: Any, garbage: float) -> None:
    weights = 1 + torch.rand(batch.response_mask.shape, generator=torch.Generator().manual_seed(1))
    clean = run(batch, rollout_is_weights=weights, **options)
    hidden = ~batch.response_mask
    dirty = {f.name: getattr(batch, f.name).masked_fill(hidden, garbage) for f in fields(batch) if "mask" not in f.name}
    soiled = replace(batch, **dirty)
    again = run(soiled, rollout_is_weights=weights.masked_fill(hidden, garbage), **options)
    assert torch.equal(clean[0], again[0])
    assert torch.equal(clean[1], again[1])
    assert clean[2] == again[2]
    assert not again[1][hidden].any()


@settings(max_examples=100, deadline=None)
@given(batches, variants, st.integers(0, 5))
def test_micro_batches_sum_to_the_whole(batch: Batch, options: Any, cut: int) -> None:
    rows = batch.response_mask.shape[0]
    whole = run(batch, batch=GlobalBatch(global_batch_size=rows), **options)
    # Two ranks, one micro-batch each: the mean over ranks of dp_size-scaled losses.
    parts = [
        run(batch.rows(part), batch=GlobalBatch(dp_size=2, global_batch_size=rows), **options)
        for part in (slice(0, cut), slice(cut, None))
    ]
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, whole[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]) / 2, whole[1], rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(batches, variants)
def test_keys_are_the_same_for_any_data_and_values_are_plain(batch: Batch, options: Any) -> None:
    metrics = run(batch, **options)[2]
    assert metrics.keys() == run(random_batch(1, 2, 3, drift=0.0, fill=0.0), **options)[2].keys()
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    shares = [value for key, value in metrics.items() if key.endswith("/tokens")]
    assert sum(shares) == pytest.approx(float(batch.response_mask.any()))
    pools = {"quantile": len(options["entropy_quantiles"]) + 1, "threshold": 3}
    assert len(shares) == pools.get(options["grouping"], 1)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_nothing_to_learn_from_is_zero_and_attached(shape: tuple[int, int], grouping: str) -> None:
    empty = random_batch(0, *shape, drift=0.1, fill=0.0)
    for batch in (GlobalBatch(), GlobalBatch(global_batch_size=4)):
        thresholds = (1.0,) if grouping == "threshold" else ()
        loss, grad, metrics = run(empty, grouping=grouping, entropy_thresholds=thresholds, batch=batch)
        assert loss.item() == 0
        assert not grad.any()
        assert not any(metrics.values())


def test_an_empty_row_changes_nothing_but_the_row_count() -> None:
    batch = random_batch(3, 3, 6, drift=0.1, fill=1.0)
    batch.response_mask[1] = False
    alone = Batch(*(getattr(batch, f.name)[[0, 2]] for f in fields(batch)))
    torch.testing.assert_close(run(batch)[0], run(alone)[0])
    fixed_rows = run(batch, batch=GlobalBatch(global_batch_size=3))[0]
    torch.testing.assert_close(fixed_rows * 3, run(alone)[0] * 2)


def test_a_width_of_zero_still_learns_on_policy() -> None:
    batch = random_batch(0, 2, 6, drift=0.0, fill=1.0)
    _, grad, metrics = run(batch, alpha=0.0)
    assert metrics["actor/pg_clipfrac"] == 0
    size = torch.tensor([5.0, 1.0])  # n = 6: floor(4.8 + 0.5) = 5 tokens in group 0
    for row in range(2):
        top = batch.old_entropy[row].argsort(stable=True)[-1]
        share = torch.full((6,), 1 / size[0].item())
        share[top] = 1 / size[1].item()
        torch.testing.assert_close(grad[row], -batch.advantages[row] * share / 2 / 2)


def test_rollout_weights_multiply_each_token() -> None:
    batch = random_batch(5, 1, 1, drift=0.1, fill=1.0)
    once = run(batch, grouping="token", clip="fixed")
    thrice = run(batch, grouping="token", clip="fixed", rollout_is_weights=torch.full((1, 1), 3.0))
    torch.testing.assert_close(thrice[0], 3 * once[0])
    torch.testing.assert_close(thrice[1], 3 * once[1])


@pytest.mark.parametrize("name", ["log_prob", "old_log_prob", "advantages", "old_entropy"])
def test_nan_at_a_valid_token_is_not_hidden(name: str) -> None:
    batch = random_batch(2, 2, 5, drift=0.1, fill=1.0)
    getattr(batch, name)[0, 3] = math.nan
    assert run(batch)[0].isnan()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("token_ratio", TOKEN_RATIOS)
@pytest.mark.parametrize("grouping", ["sequence", "token"])
def test_huge_ratios_stay_finite(grouping: str, token_ratio: str, sign: float) -> None:
    batch = random_batch(2, 2, 5, drift=0.0, fill=1.0)
    batch = replace(batch, log_prob=batch.log_prob + sign * 500)
    loss, grad, metrics = run(batch, grouping=grouping, token_ratio=token_ratio, clip="fixed")
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert metrics["actor/espo/group0/ratio"] <= math.exp(20) ** 2 * 1.001
    assert metrics["actor/ppo_kl"] == pytest.approx(-20 * sign)


def test_autocast_is_off_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operation of today's code reacts to autocast on a CPU, so its state is looked at, not its effect."""
    seen: list[bool] = []
    original = common.row_mean_loss

    def spied(*args: Any) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(*args)

    monkeypatch.setattr(common, "row_mean_loss", spied)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(random_batch(4, 3, 9, drift=0.01))
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False]


def test_precision_is_float32_at_least() -> None:
    batch = random_batch(4, 3, 9, drift=0.01)
    plain = run(batch)
    assert run(batch.to(torch.bfloat16))[0].dtype == torch.float32
    double = run(batch.to(torch.float64))
    assert double[0].dtype == torch.float64
    torch.testing.assert_close(plain[0].double(), double[0], rtol=1e-5, atol=1e-7)


def test_entropies_carry_no_gradient() -> None:
    """A width that followed the entropies' gradient would reward the policy for wider clip ranges."""
    batch = random_batch(6, 3, 8, drift=0.5, fill=1.0)
    batch.old_entropy.requires_grad_()
    run(batch)
    assert batch.old_entropy.grad is None


def test_gradient_agrees_with_finite_differences() -> None:
    """`old` is a function of log_prob as written once its detached group ratio is held fixed: one token a
    group, so that r = sg(e^d) e^d, and the derivative of the unclipped term is r A."""
    batch = random_batch(6, 2, 4, drift=0.05, fill=1.0).to(torch.float64)
    _, grad, _ = run(batch, grouping="token", token_ratio="old", clip="fixed", clip_ratio_high=9.0, clip_ratio_low=1.0)
    d = batch.log_prob - batch.old_log_prob
    torch.testing.assert_close(grad, -batch.advantages * (2 * d).exp() / 8)


def test_metrics_leave_the_device_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _fn: Any = original, **kwargs: Any) -> Any:
            calls.append(_name)
            return _fn(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    batch = random_batch(0, 3, 8, drift=0.1)
    espo_loss(*batch.loss_args(), old_entropy=batch.old_entropy, vocab_size=VOCAB)
    assert calls == ["tolist"]


def test_metrics_without_entropies_leave_the_entropy_out() -> None:
    batch = random_batch(0, 3, 8, drift=0.1)
    metrics = run(batch, grouping="sequence", clip="fixed", old_entropy=None)[2]
    assert "actor/espo/group0/entropy" not in metrics
    assert metrics["actor/espo/group0/eps"] == pytest.approx(0.2)


def test_needs_follow_the_options() -> None:
    assert token_data("quantile", "adaptive") == ("old_entropy", "vocab_size")
    assert token_data("threshold", "fixed") == ("old_entropy",)
    assert token_data("sequence", "adaptive") == ("old_entropy", "vocab_size")
    assert token_data("sequence", "fixed") == token_data("token", "fixed") == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_agg_mode": "token-mean"}, ["token-mean", "seq-mean-token-mean"]),
        ({"grouping": "quantil", "clip": "loose"}, ["quantil", "threshold", "loose", "adaptive"]),
        ({"old_entropy": None}, ["old_entropy", "quantile"]),
        ({"vocab_size": None}, ["vocab_size", "adaptive"]),
        ({"vocab_size": 1}, ["vocab_size=1", "at least 2"]),
        ({"old_entropy": torch.zeros(2, 6)}, ["old_entropy", "(2, 6)", "(2, 5)"]),
        ({"rollout_is_weights": torch.zeros(2)}, ["rollout_is_weights", "(2,)"]),
        ({"batch": GlobalBatch(dp_size=2)}, ["global_batch_size", "dp_size=2"]),
    ],
)
def test_faults_say_what_and_what_instead(options: Any, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^(espo|these must|global_batch_size)") as raised:
        run(random_batch(0, 2, 5, drift=0.1), **options)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("bad", [-1, 2])
def test_a_valid_token_without_a_group_is_an_error(bad: int) -> None:
    """Otherwise it would be left out of the objective without a word; behind the mask any id will do."""
    batch = golden()
    ids = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 7, -1, 7]])
    run(batch, group_ids=ids, **GOLDEN_OPTIONS)
    ids[0, 2] = bad
    with pytest.raises(ValueError, match="1 valid tokens have a group id outside the groups"):
        run(batch, group_ids=ids, **GOLDEN_OPTIONS)

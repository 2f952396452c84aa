"""The `steer` loss: hand-computed weights, an independent reference, reduction to vanilla, and the two scopes."""

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
from verl_ext import plugin, register
from verl_ext.config import STEERLossConfig
from verl_ext.context import MissingTokenData, TokenContext, token_context
from verl_ext.losses.common import AGGREGATIONS, GlobalBatch
from verl_ext.losses.steer import MAPPINGS, SCOPES, steer_loss

variants = st.fixed_dictionaries(
    {
        "mapping": st.sampled_from(MAPPINGS),
        "scope": st.sampled_from(SCOPES),
        "w_min": st.sampled_from([0.1, 0.8, 1.0]),
        "w_max": st.sampled_from([1.0, 1.2]),
        "loss_agg_mode": st.sampled_from(AGGREGATIONS),
    }
)
KEYS = data.CLIP_KEYS | {"actor/steer/weight", "actor/steer/entropy_change"}
DOUBLE = {"dtype": torch.float64}
HALF = math.log(0.5)


def run(batch: Batch, /, **options: Any) -> Step:
    return data.step(steer_loss, batch, **{"entropy": data.current_entropy(batch), **options})


def golden(scale: float = 1.0) -> tuple[Batch, Tensor]:
    """Two rows, p = 1/2 everywhere, so |Omega| = |A| r / 2 |log p + H|.

    Row 0: A = 1, r = 1, log p + H = 0.4, 0.2, 0                     -> |Omega| = 0.2, 0.1, 0
    Row 1: A = -2, r = 0.5 / 0.4 = 1.25, log p + H = -0.4, 0.08      -> |Omega| = 0.5, 0.1
    """
    hidden = math.nan
    old = torch.tensor([[0.5, 0.5, 0.5], [0.4, 0.4, hidden]], **DOUBLE).log()
    above = scale * torch.tensor([[0.4, 0.2, 0.0], [-0.4, 0.08, hidden]], **DOUBLE)
    advantages = torch.tensor([[1.0], [-2.0]], **DOUBLE).expand(2, 3)
    new = torch.full_like(old, HALF).masked_fill(old.isnan(), hidden)
    return Batch(old, new, advantages, ~old.isnan(), above), above - HALF


# Terms: 1 (three times), and min(1.25 * -2, 1.2 * -2) = -2.5 (twice), neither below 3 * -2.
# Weights, in the order of the tokens; 0.8^x stands for exp(-k |Omega|) with x = |Omega| / greatest:
#   exponential, row:         0.8, 0.8^0.5 = 0.8944271910, 1 | 0.8, 0.8^0.2 = 0.9563524998
#   exponential, micro_batch: 0.8^0.4 = 0.9146101038, 0.8^0.2, 1 | 0.8, 0.8^0.2
#   linear, row:              0.8, 0.9, 1 | 0.8, 1
#   linear, micro_batch:      least 0, greatest 0.5: 1 - 0.2 * 0.4 = 0.92, 0.96, 1 | 0.8, 0.96
#   linear, row, up to 1.2:   0.8, 1, 1.2 | 0.8, 1.2
GOLDEN = [
    ("exponential", "row", 1.0, [0.8, 0.8944271910, 1.0, 0.8, 0.9563524998]),
    ("exponential", "micro_batch", 1.0, [0.9146101038, 0.9563524998, 1.0, 0.8, 0.9563524998]),
    ("linear", "row", 1.0, [0.8, 0.9, 1.0, 0.8, 1.0]),
    ("linear", "micro_batch", 1.0, [0.92, 0.96, 1.0, 0.8, 0.96]),
    ("linear", "row", 1.2, [0.8, 1.0, 1.2, 0.8, 1.2]),
]
TERMS = torch.tensor([1.0, 1.0, 1.0, -2.5, -2.5], **DOUBLE)


@pytest.mark.parametrize(("mapping", "scope", "w_max", "weights"), GOLDEN)
def test_golden(mapping: str, scope: str, w_max: float, weights: list[float]) -> None:
    batch, entropy = golden()
    loss, grad, metrics = run(batch, entropy=entropy, mapping=mapping, scope=scope, w_max=w_max)
    # exponential, row: -(0.8 + 0.8944271910 + 1 - 2.5 * 1.7563524998) / 5 = (4.3908812495 - 2.6944271910) / 5
    if (mapping, scope) == ("exponential", "row"):
        assert loss.item() == pytest.approx(0.3392908117, abs=1e-9)
    expected = -torch.tensor(weights, **DOUBLE) * TERMS / 5
    assert loss.item() == pytest.approx(expected.sum().item(), abs=1e-9)
    # d(r A)/dl = r A: the gradient of a token is its share of the loss
    torch.testing.assert_close(grad[batch.response_mask], expected, rtol=1e-9, atol=0)
    assert metrics == pytest.approx(
        {
            "actor/pg_clipfrac": 0.0,
            "actor/pg_clipfrac_low": 0.0,
            "actor/pg_clipfrac_high": 0.0,
            "actor/pg_clipfrac_lower": 0.0,
            "actor/ppo_kl": -2 * math.log(1.25) / 5,
            "actor/steer/weight": sum(weights) / 5,
            "actor/steer/entropy_change": (0.2 + 0.1 + 0.0 + 0.5 + 0.1) / 5,
        },
        abs=1e-9,
    )


def test_the_floor_of_the_greatest_change() -> None:
    # |Omega| a hundredth of the golden ones: 0.002, 0.001, 0 | 0.005, 0.001. The greatest is below 0.02, which stands
    # for it: 0.8^0.1 = 0.9779327685, 0.8^0.05 = 0.9889048329, 1 | 0.8^0.25 = 0.9457416090, 0.8^0.05
    weights = [0.9779327685, 0.9889048329, 1.0, 0.9457416090, 0.9889048329]
    batch, entropy = golden(scale=0.01)
    for scope in SCOPES:
        metrics = run(batch, entropy=entropy, scope=scope)[2]
        assert metrics["actor/steer/weight"] == pytest.approx(sum(weights) / 5, abs=1e-9)
    # 0.02 itself: a tenth gives 0.02, 0.01, 0 in row 0 and 0.05, 0.01 in row 1, the weights of the full size
    batch, entropy = golden(scale=0.1)
    assert run(batch, entropy=entropy)[2]["actor/steer/weight"] == pytest.approx(sum(GOLDEN[0][3]) / 5, abs=1e-9)
    # `linear` has no floor
    batch, entropy = golden(scale=0.01)
    assert run(batch, entropy=entropy, mapping="linear")[2]["actor/steer/weight"] == pytest.approx(4.5 / 5, abs=1e-9)


@pytest.mark.parametrize("scope", SCOPES)
def test_equal_changes_under_linear_have_the_greatest_weight(scope: str) -> None:
    old = torch.full((2, 3), HALF)
    entropy = torch.full((2, 3), 1.0)
    advantages = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])  # the sign does not matter
    batch = Batch(old, old.clone(), advantages, torch.ones(2, 3).bool(), entropy)
    metrics = run(batch, entropy=entropy, mapping="linear", scope=scope, w_min=0.3, w_max=0.9)[2]
    assert metrics["actor/steer/weight"] == pytest.approx(0.9)
    # under `exponential` every token then is the greatest
    metrics = run(batch, entropy=entropy, scope=scope, w_min=0.3)[2]
    assert metrics["actor/steer/weight"] == pytest.approx(0.3)


def reference_weights(batch: Batch, entropy: Tensor, mapping: str, scope: str, w_min: float, w_max: float) -> Tensor:
    """Token by token in Python floats, from the form A / pi_old * p (1 - p) (ln p + H)."""
    omega: dict[tuple[int, int], float] = {}
    for i, t in batch.response_mask.nonzero().tolist():
        p, p_old = (math.exp(x[i, t].item()) for x in (batch.log_prob, batch.old_log_prob))
        a = batch.advantages[i, t].item()
        omega[i, t] = abs(a / p_old * p * (1 - p) * (math.log(p) + entropy[i, t].item()))
    weights = torch.zeros_like(batch.log_prob)
    for (i, t), value in omega.items():
        among = [x for (row, _), x in omega.items() if scope == "micro_batch" or row == i]
        if mapping == "exponential":
            k = -math.log(w_min) / max(max(among), 0.02)
            weights[i, t] = max(w_min, math.exp(-k * value))
        elif max(among) == min(among):
            weights[i, t] = w_max
        else:
            weights[i, t] = w_max - (w_max - w_min) * (value - min(among)) / (max(among) - min(among))
    return weights


def weighted_vanilla(batch: Batch, weights: Tensor, mode: str, **actor: Any) -> Step:
    """verl's own loss: its factor for the rollout correction takes the weights."""
    config = data.actor_config(**actor)
    return data.step(core_algos.compute_policy_loss_vanilla, batch, mode, config, rollout_is_weights=weights)


@settings(max_examples=200, deadline=None)
@given(data.edge_batches, variants, st.sampled_from([1.1, 3.0]))
def test_every_option_against_the_reference_times_vanilla(batch: Batch, options: Any, c: float) -> None:
    """Value and gradient: the weights carry none of their own."""
    batch = batch.to(torch.float64)
    entropy = data.current_entropy(batch)
    options = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": c, **options}
    mode, mapping, scope = options["loss_agg_mode"], options["mapping"], options["scope"]
    weights = reference_weights(batch, entropy, mapping, scope, options["w_min"], options["w_max"])
    theirs = weighted_vanilla(batch, weights, mode, clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=c)
    ours = run(batch, **options)
    # verl divides by n + 1e-8
    assert_same_step(batch, ours, theirs, rtol=1e-7, atol=1e-9)
    tokens = max(int(batch.response_mask.sum()), 1)
    assert ours[2]["actor/steer/weight"] == pytest.approx(weights.sum().item() / tokens, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    data.edge_batches,
    st.sampled_from(MAPPINGS),
    st.sampled_from(SCOPES),
    st.sampled_from([(0.2, 0.28), (3e-4, 4e-4), (0.0, 0.0)]),
    st.sampled_from([1.1, 3.0]),
    st.sampled_from(AGGREGATIONS),
)
def test_weights_of_one_are_vanilla(
    batch: Batch, mapping: str, scope: str, width: tuple[float, float], c: float, mode: str
) -> None:
    settings_ = {"clip_ratio_low": width[0], "clip_ratio_high": width[1], "clip_ratio_c": c}
    ours = run(batch, mapping=mapping, scope=scope, w_min=1.0, w_max=1.0, loss_agg_mode=mode, **settings_)
    theirs = data.step(core_algos.compute_policy_loss_vanilla, batch, mode, data.actor_config(**settings_))
    assert_same_step(batch, ours, theirs)


def test_dual_clip_is_weighted_too() -> None:
    # A = -1, r = e^2 = 7.389 > 3: the term is -3, and no gradient; p = e^-0.5, alone in its row: weight 0.8
    old = torch.full((1, 1), -2.5)
    batch = Batch(old, old + 2.0, -torch.ones(1, 1), torch.ones(1, 1).bool(), torch.ones(1, 1))
    loss, grad, metrics = run(batch, entropy=torch.full((1, 1), 3.0))
    assert loss.item() == pytest.approx(0.8 * 3)
    assert grad.item() == 0
    assert metrics["actor/pg_clipfrac_lower"] == 1
    assert run(batch, entropy=torch.full((1, 1), 3.0), clip_ratio_c=8.0)[0].item() == pytest.approx(0.8 * math.exp(2))


def test_entropies_and_weights_carry_no_gradient() -> None:
    batch = random_batch(6, 3, 8, drift=0.5, fill=1.0)
    entropy = data.current_entropy(batch).requires_grad_()
    run(batch, entropy=entropy)
    assert entropy.grad is None


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, variants, st.integers(0, 4))
def test_rows_do_not_depend_on_their_micro_batch(batch: Batch, options: Any, cut: int) -> None:
    data.assert_micro_batches_sum(run, batch, cut, **{**options, "scope": "row"})


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_scope_micro_batch_does_depend_on_it(mapping: str) -> None:
    """Its authors' form; the golden rows have different extremes, so a row alone gets other weights."""
    batch, entropy = golden()
    options = {"mapping": mapping, "scope": "micro_batch"}
    whole = run(batch, entropy=entropy, batch=GlobalBatch(batch_num_tokens=5), **options)[0]
    alone = sum(
        run(batch.rows(part), entropy=entropy[part], batch=GlobalBatch(batch_num_tokens=5), **options)[0].item()
        for part in (slice(0, 1), slice(1, 2))
    )
    by_row = run(batch, entropy=entropy, mapping=mapping, scope="row")[0].item()
    assert alone == pytest.approx(by_row, abs=1e-12)
    assert abs(whole.item() - alone) > 0.01


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_to_learn_from_is_zero_and_attached(shape: tuple[int, int], mapping: str, scope: str) -> None:
    empty = random_batch(0, *shape, drift=0.1, fill=0.0)
    for mode in AGGREGATIONS:
        for batch in (GlobalBatch(), GlobalBatch(global_batch_size=4, batch_num_tokens=9)):
            loss, grad, metrics = run(empty, mapping=mapping, scope=scope, loss_agg_mode=mode, batch=batch)
            assert loss.item() == 0
            assert not grad.any()
            assert metrics.keys() == KEYS
            assert not any(metrics.values())


def test_an_empty_row_changes_nothing() -> None:
    batch = random_batch(3, 3, 6, drift=0.1, fill=1.0)
    batch.response_mask[1] = False
    without = [Batch(*(x[[0, 2]] for x in vars(batch).values()))]
    for mapping in MAPPINGS:
        for scope in SCOPES:
            both = [run(x, mapping=mapping, scope=scope) for x in (batch, *without)]
            torch.testing.assert_close(both[0][0], both[1][0])
            torch.testing.assert_close(both[0][1][[0, 2]], both[1][1])


@settings(max_examples=100, deadline=None)
@given(data.batches, variants, st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_what_lies_behind_the_mask_has_no_influence(batch: Batch, options: Any, garbage: float) -> None:
    data.assert_garbage_is_unseen(run, batch, garbage, **options)


@settings(max_examples=100, deadline=None)
@given(data.edge_batches, variants)
def test_weights_stay_in_their_range_and_metrics_are_plain(batch: Batch, options: Any) -> None:
    metrics = run(batch, **options)[2]
    assert metrics.keys() == KEYS
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    greatest = options["w_max"] if options["mapping"] == "linear" else 1.0
    if batch.response_mask.any():
        assert options["w_min"] - 1e-6 <= metrics["actor/steer/weight"] <= greatest + 1e-6


def test_rollout_weights_multiply_each_token() -> None:
    batch = random_batch(5, 2, 3, drift=0.3, fill=1.0)
    once, thrice = (run(batch, rollout_is_weights=w) for w in (None, torch.full((2, 3), 3.0)))
    torch.testing.assert_close(thrice[0], 3 * once[0])
    torch.testing.assert_close(thrice[1], 3 * once[1])
    assert once[2] == thrice[2]


@pytest.mark.parametrize("name", ["log_prob", "old_log_prob", "advantages", "entropy"])
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("scope", SCOPES)
def test_nan_at_a_valid_token_is_not_hidden(name: str, mapping: str, scope: str) -> None:
    batch = random_batch(2, 2, 5, drift=0.1, fill=1.0)
    entropy = data.current_entropy(batch)
    (entropy if name == "entropy" else getattr(batch, name))[0, 3] = math.nan
    assert run(batch, entropy=entropy, mapping=mapping, scope=scope)[0].isnan()


@pytest.mark.parametrize("shift", [500.0, -500.0])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_huge_ratios_and_vanishing_probabilities_stay_finite(mapping: str, shift: float) -> None:
    batch = random_batch(2, 2, 5, drift=0.0, fill=1.0)
    # up: p_old = e^-500, which is 0 in float32; down: p is
    low, high = batch.old_log_prob - 500, batch.old_log_prob
    old, new = (low, high) if shift > 0 else (high, low)
    loss, grad, metrics = run(replace(batch, old_log_prob=old, log_prob=new), mapping=mapping)
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert metrics["actor/ppo_kl"] == pytest.approx(math.copysign(20, -shift))


def test_precision_is_float32_at_least() -> None:
    batch = random_batch(4, 3, 9, drift=0.01)
    plain, double = run(batch), run(batch.to(torch.float64))
    assert double[0].dtype == torch.float64
    torch.testing.assert_close(plain[0].double(), double[0], rtol=1e-5, atol=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(batch.to(torch.bfloat16))[0].dtype == torch.float32


def test_through_the_registered_loss() -> None:
    register()
    batch = random_batch(1, 4, 9, drift=0.4)
    steer = core_algos.get_policy_loss_fn("steer")
    info = {"dp_size": 2, "batch_num_tokens": 11, "global_batch_size": 8, "loss_scale_factor": None}
    hyper = {"mapping": "linear", "scope": "micro_batch", "w_min": 0.5, "w_max": 1.5}
    keys = {"clip_ratio_low": 0.1, "clip_ratio_high": 0.3, "clip_ratio_c": 1.2}
    config = data.actor_config(STEERLossConfig(**hyper), global_batch_info=info, **keys)
    with pytest.raises(MissingTokenData, match=r"`steer` needs (.|\n)*entropy: set `actor\S*calculate_entropy=True`"):
        steer(*batch.loss_args(), "token-mean", config)
    entropy = data.current_entropy(batch)
    with token_context(TokenContext(entropy=entropy)):
        got = steer(*batch.loss_args(), "token-mean", config)
    want = steer_loss(*batch.loss_args(), entropy=entropy, batch=GlobalBatch(**info), **hyper, **keys)
    assert torch.equal(got[0], want[0])
    assert got[1] == want[1]
    assert want[1]["actor/pg_clipfrac_lower"] > 0
    reported = plugin.resolved_hyper_parameters("steer", config)
    assert reported == {**hyper, **keys, "loss_agg_mode": "seq-mean-token-mean"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_agg_mode": "mean", "mapping": "exp", "scope": "batch"}, ["'mean'", "'exp'", "'batch'", "micro_batch"]),
        *data.SHARED_FAULTS,
    ],
)
def test_faults_say_what_and_what_instead(options: Any, words: list[str]) -> None:
    data.assert_refused(run, options, words)

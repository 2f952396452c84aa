"""What the losses share is verl's own arithmetic, where verl has it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_vanilla

from tests.losses.batches import Batch, actor_config, assert_same_step, edge_batches, random_batch, soiled, step
from verl_ext.losses import common
from verl_ext.losses.common import AGGREGATIONS, GlobalBatch

FULL = {"dp_size": 2, "batch_num_tokens": 37, "global_batch_size": 11, "loss_scale_factor": 5}


def aggregated(batch: Batch, mode: str, fn: Any) -> tuple[Tensor, Tensor]:
    """`fn(objective, mask, mode)` and its gradient, for the advantages as the objective."""
    raw = batch.advantages.clone().requires_grad_()
    loss = fn(common.keep(raw, batch.response_mask, raw.dtype), batch.response_mask, mode)
    loss.backward()
    assert raw.grad is not None
    return loss.detach(), raw.grad


@settings(max_examples=200, deadline=None)
@given(edge_batches, st.sampled_from(AGGREGATIONS), st.sampled_from([{}, FULL, {**FULL, "loss_scale_factor": None}]))
def test_aggregation_is_verls(batch: Batch, mode: str, info: dict[str, Any]) -> None:
    ours = aggregated(batch, mode, lambda *args: -common.aggregate(*args, GlobalBatch(**info)))
    theirs = aggregated(batch, mode, lambda *args: agg_loss(*args, **info))
    if not batch.response_mask.any():
        assert ours[0] == 0
        assert not ours[1].any()
        return
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=1e-8)


def test_aggregation_golden() -> None:
    """Rows of 2 and 1 valid tokens and an empty one, width 4; objective 1, 2 and 6."""
    objective = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 6.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    mask = objective != 0
    expected = {
        "token-mean": -9 / 3,
        "token-sum": -9.0,
        "seq-mean-token-sum": -(3 + 6) / 2,  # the empty row is not counted
        "seq-mean-token-sum-norm": -(3 + 6) / 2 / 4,
        "seq-mean-token-mean": -(1.5 + 6) / 2,
    }
    assert {mode: common.aggregate(objective, mask, mode, GlobalBatch()).item() for mode in AGGREGATIONS} == expected
    # One of two ranks; the mini-batch has 10 tokens in 5 rows, and a scale of 3.
    batch = GlobalBatch(dp_size=2, batch_num_tokens=10, global_batch_size=5, loss_scale_factor=3)
    shared = {
        "token-mean": -9 / 10 * 2,
        "token-sum": -9.0 * 2,
        "seq-mean-token-sum": -9 / 5 * 2,
        "seq-mean-token-sum-norm": -9 / 5 * 2 / 3,
        "seq-mean-token-mean": -7.5 / 5 * 2,
    }
    got = {mode: common.aggregate(objective, mask, mode, batch).item() for mode in AGGREGATIONS}
    assert got == pytest.approx(shared)


@pytest.mark.parametrize("mode", AGGREGATIONS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (3, 4)])
@pytest.mark.parametrize("count", [None, 0, torch.tensor(0), torch.tensor(0.0)])
def test_zero_denominators_give_zero_on_the_graph(shape: tuple[int, int], mode: str, count: Any) -> None:
    raw = torch.ones(shape, requires_grad=True)
    mask = torch.zeros(shape, dtype=torch.bool)
    batch = GlobalBatch(batch_num_tokens=count, global_batch_size=count)
    loss = common.aggregate(common.keep(raw, mask, raw.dtype), mask, mode, batch)
    assert loss.item() == 0
    loss.backward()
    assert raw.grad is not None
    assert not raw.grad.any()


@pytest.mark.parametrize("number", [7, 7.0, torch.tensor(7), torch.tensor(7.0)])
def test_normalisers_may_be_numbers_or_tensors(number: Any) -> None:
    objective, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    batch = GlobalBatch(batch_num_tokens=number, global_batch_size=number)
    assert common.aggregate(objective, mask, "token-mean", batch).item() == pytest.approx(-6 / 7)
    assert common.aggregate(objective, mask, "seq-mean-token-sum", batch).item() == pytest.approx(-6 / 7)


def test_several_ranks_need_a_number_to_share() -> None:
    objective, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for mode in AGGREGATIONS:
        if mode == "token-sum":
            assert common.aggregate(objective, mask, mode, GlobalBatch(dp_size=2)).item() == -12
            continue
        name = "batch_num_tokens" if mode == "token-mean" else "global_batch_size"
        with pytest.raises(ValueError, match=rf"{name} is None with dp_size=2.*config\.global_batch_info"):
            common.aggregate(objective, mask, mode, GlobalBatch(dp_size=2))


def test_an_unknown_aggregation_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'mean' is not one of token-mean, token-sum, seq-mean-token-sum"):
        common.aggregate(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), "mean", GlobalBatch())


def ppo_loss(
    *args: Tensor, low: float, high: float, c: float, mode: str, batch: GlobalBatch
) -> tuple[Tensor, dict[str, float]]:
    tokens = common.read_tokens(*args)
    lower, upper = tokens.advantages.new_tensor([1 - low, 1 + high])
    term, sides = common.ppo_term(tokens, lower, upper, c)
    loss = common.aggregate(term, tokens.mask, mode, batch)
    return loss, common.to_floats(common.clip_metrics(tokens, **sides))


@settings(max_examples=200, deadline=None)
@given(
    edge_batches,
    st.sampled_from([(0.2, 0.28), (3e-4, 4e-4), (0.0, 0.0)]),
    st.sampled_from([1.05, 3.0, 1e9]),
    st.sampled_from(AGGREGATIONS),
    st.sampled_from([{}, FULL]),
    st.sampled_from([1.0, 100.0]),
)
def test_ppo_term_is_vanilla(
    batch: Batch, width: tuple[float, float], c: float, mode: str, info: dict[str, Any], stretch: float
) -> None:
    """`stretch` takes log-ratios beyond the clamp at 20."""
    batch = replace(batch, log_prob=batch.old_log_prob + stretch * (batch.log_prob - batch.old_log_prob))
    low, high = width
    ours = step(ppo_loss, batch, low=low, high=high, c=c, mode=mode, batch=GlobalBatch(**info))
    actor = actor_config(clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=c, global_batch_info=info)
    assert_same_step(batch, ours, step(compute_policy_loss_vanilla, batch, mode, actor))


def test_ppo_term_golden() -> None:
    """Ratios 1, 1.5, 0.5, 4 within [0.8, 1.2], c = 3, for A = 2 and A = -2."""
    ratio = torch.tensor([[1.0, 1.5, 0.5, 4.0]] * 2, dtype=torch.float64)
    new = ratio.log().requires_grad_()
    advantages = torch.tensor([[2.0], [-2.0]], dtype=torch.float64).expand(2, 4)
    tokens = common.read_tokens(torch.zeros_like(ratio), new, advantages, torch.ones(2, 4))
    lower, upper = torch.tensor(0.8, dtype=torch.float64), torch.tensor(1.2, dtype=torch.float64)
    term, sides = common.ppo_term(tokens, lower, upper, 3.0)
    # A = 2:  1 * 2; min(3, 2.4); min(1, 1.6); min(8, 2.4)
    # A = -2: -2; min(-3, -2.4); min(-1, -1.6); min(-8, -2.4) = -8, and no less than 3 * -2
    torch.testing.assert_close(term, torch.tensor([[2, 2.4, 1, 2.4], [-2, -3, -1.6, -6]], dtype=torch.float64))
    term.sum().backward()
    assert new.grad is not None
    # d(rA)/dl = rA where the unclipped side stands
    torch.testing.assert_close(new.grad, torch.tensor([[2.0, 0, 1, 0], [-2, -3, 0, 0]], dtype=torch.float64))
    assert sides["high"].tolist() == [[False, True, False, True], [False] * 4]
    assert sides["low"].tolist() == [[False] * 4, [False, False, True, False]]
    assert sides["dual"].tolist() == [[False] * 4, [False, False, False, True]]
    assert common.to_floats(common.clip_metrics(tokens, **sides)) == pytest.approx(
        {
            "actor/pg_clipfrac": 3 / 8,
            "actor/pg_clipfrac_low": 1 / 8,
            "actor/pg_clipfrac_high": 2 / 8,
            "actor/pg_clipfrac_lower": 1 / 8,
            "actor/ppo_kl": -math.log(1.5 * 0.5 * 4) * 2 / 8,
        }
    )


def test_bounds_may_differ_by_token() -> None:
    ratio = torch.tensor([[1.5, 1.5]])
    tokens = common.read_tokens(torch.zeros(1, 2), ratio.log(), torch.ones(1, 2), torch.ones(1, 2))
    term, sides = common.ppo_term(tokens, torch.tensor([[0.5, 0.5]]), torch.tensor([[1.1, 1.9]]), 3.0)
    torch.testing.assert_close(term, torch.tensor([[1.1, 1.5]]))
    assert sides["high"].tolist() == [[True, False]]


def test_metrics_of_nothing_are_zero() -> None:
    empty = random_batch(0, 2, 3, drift=0.3, fill=0.0)
    metrics = step(ppo_loss, empty, low=0.2, high=0.2, c=3.0, mode="token-mean", batch=GlobalBatch())[2]
    assert set(metrics.values()) == {0.0}


def test_tokens_are_read_in_one_dtype_and_hide_what_the_mask_hides() -> None:
    batch = soiled(random_batch(1, 3, 5, drift=0.3, fill=0.5), math.nan)
    tokens = common.read_tokens(
        batch.old_log_prob.bfloat16(), batch.log_prob.double(), batch.advantages, batch.response_mask.long()
    )
    assert tokens.mask.dtype == torch.bool
    for values in (tokens.log_prob, tokens.old_log_prob, tokens.advantages, tokens.log_ratio):
        assert values.dtype == torch.float64
        assert not values[~batch.response_mask].any()
    assert common.read_tokens(*(t.bfloat16() for t in batch.loss_args())).log_ratio.dtype == torch.float32


def test_only_log_prob_carries_gradient() -> None:
    tensors = [torch.rand(2, 3, requires_grad=True) for _ in range(3)]
    tokens = common.read_tokens(*tensors, torch.ones(2, 3))
    assert tokens.log_prob.requires_grad
    assert not tokens.old_log_prob.requires_grad
    assert not tokens.advantages.requires_grad
    assert not tokens.keep(tensors[0]).requires_grad


def test_differing_shapes_are_named() -> None:
    one = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"(?s)entropy.*\(2, 4\)"):
        common.read_tokens(one, one, one, one, entropy=torch.ones(2, 4), absent=None)

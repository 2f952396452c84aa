"""What the losses share is verl's own arithmetic, where verl has it."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss

from tests.losses.batches import Batch, edge_batches, random_batch, soiled
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

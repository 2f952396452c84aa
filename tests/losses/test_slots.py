"""The shared objective: values worked out by hand, and verl's `vanilla` and `gspo` as two choices of its slots."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo, compute_policy_loss_vanilla

from tests.losses.batches import Batch, actor_config, assert_same_step, batches, edge_batches, random_batch, step
from verl_ext.losses import common
from verl_ext.losses.common import AGGREGATIONS, GlobalBatch
from verl_ext.losses.slots import objective, weighted

FULL = {"dp_size": 2, "batch_num_tokens": 37, "global_batch_size": 11, "loss_scale_factor": 5}


def ppo_loss(
    *args: Tensor, low: float, high: float, c: float, mode: str, batch: GlobalBatch
) -> tuple[Tensor, dict[str, float]]:
    tokens = common.read_tokens(*args)
    return objective(tokens, 1 - low, 1 + high, dual_clip=c).loss(mode, batch, None, {})


@settings(max_examples=200, deadline=None)
@given(
    edge_batches,
    st.sampled_from([(0.2, 0.28), (3e-4, 4e-4), (0.0, 0.0)]),
    st.sampled_from([1.05, 3.0, 1e9]),
    st.sampled_from(AGGREGATIONS),
    st.sampled_from([{}, FULL]),
    st.sampled_from([1.0, 100.0]),
)
def test_token_ratio_and_fixed_bounds_are_verls_vanilla(
    batch: Batch, width: tuple[float, float], c: float, mode: str, info: dict[str, Any], stretch: float
) -> None:
    """`stretch` takes log-ratios beyond the clamp at 20."""
    batch = replace(batch, log_prob=batch.old_log_prob + stretch * (batch.log_prob - batch.old_log_prob))
    low, high = width
    ours = step(ppo_loss, batch, low=low, high=high, c=c, mode=mode, batch=GlobalBatch(**info))
    actor = actor_config(clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=c, global_batch_info=info)
    assert_same_step(batch, ours, step(compute_policy_loss_vanilla, batch, mode, actor))


def test_golden() -> None:
    """Ratios 1, 1.5, 0.5, 4 within [0.8, 1.2], c = 3, for A = 2 and A = -2."""
    ratio = torch.tensor([[1.0, 1.5, 0.5, 4.0]] * 2, dtype=torch.float64)
    new = ratio.log().requires_grad_()
    advantages = torch.tensor([[2.0], [-2.0]], dtype=torch.float64).expand(2, 4)
    tokens = common.read_tokens(torch.zeros_like(ratio), new, advantages, torch.ones(2, 4))
    made = objective(tokens, 0.8, 1.2, dual_clip=3.0)
    # A = 2:  1 * 2; min(3, 2.4); min(1, 1.6); min(8, 2.4)
    # A = -2: -2; min(-3, -2.4); min(-1, -1.6); min(-8, -2.4) = -8, and no less than 3 * -2
    torch.testing.assert_close(made.values, torch.tensor([[2, 2.4, 1, 2.4], [-2, -3, -1.6, -6]], dtype=torch.float64))
    made.values.sum().backward()
    assert new.grad is not None
    # d(rA)/dl = rA where the unclipped side stands
    torch.testing.assert_close(new.grad, torch.tensor([[2.0, 0, 1, 0], [-2, -3, 0, 0]], dtype=torch.float64))
    assert made.high.tolist() == [[False, True, False, True], [False] * 4]
    assert made.low.tolist() == [[False] * 4, [False, False, True, False]]
    assert made.dual is not None
    assert made.dual.tolist() == [[False] * 4, [False, False, False, True]]
    assert common.to_floats(made.clip_metrics()) == pytest.approx(
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
    made = objective(tokens, torch.tensor([[0.5, 0.5]]), torch.tensor([[1.1, 1.9]]))
    torch.testing.assert_close(made.values, torch.tensor([[1.1, 1.5]]))
    assert made.high.tolist() == [[True, False]]
    assert made.dual is None


def test_metrics_of_nothing_are_zero() -> None:
    empty = random_batch(0, 2, 3, drift=0.3, fill=0.0)
    metrics = step(ppo_loss, empty, low=0.2, high=0.2, c=3.0, mode="token-mean", batch=GlobalBatch())[2]
    assert set(metrics.values()) == {0.0}


def row_loss(*args: Tensor, low: float, high: float) -> tuple[Tensor, dict[str, float]]:
    """The ratio of a row, exp(mean d), on each of its tokens."""
    tokens = common.read_tokens(*args)
    mean = tokens.log_ratio.sum(-1, keepdim=True) / tokens.mask.sum(-1, keepdim=True).clamp(min=1)
    return objective(tokens, 1 - low, 1 + high, ratio=mean.exp()).loss("seq-mean-token-mean", GlobalBatch(), None, {})


@settings(max_examples=100, deadline=None)
@given(batches)
def test_a_rows_ratio_and_fixed_bounds_are_verls_gspo(batch: Batch) -> None:
    """One advantage a row; verl divides by 0 for an empty one."""
    batch.response_mask[:, 0] = True
    batch = replace(batch, advantages=batch.advantages[:, :1].expand_as(batch.advantages))
    config = actor_config(clip_ratio_low=0.05, clip_ratio_high=0.08)
    theirs = step(compute_policy_loss_gspo, batch, "seq-mean-token-mean", config)
    assert_same_step(batch, step(row_loss, batch, low=0.05, high=0.08), theirs, rtol=1e-4, atol=1e-5)


def test_a_weight_is_on_the_term_and_its_dual_clip() -> None:
    """Ratios 1.5 and 4 of A = 1, 4 of A = -1, within [0.8, 1.2], c = 3; weights 2, 0 and 0.5."""
    new = torch.tensor([[1.5, 4.0, 4.0]]).log().requires_grad_()
    tokens = common.read_tokens(torch.zeros(1, 3), new, torch.tensor([[1.0, 1.0, -1.0]]), torch.ones(1, 3))
    made = objective(weighted(tokens, torch.tensor([[2.0, 0.0, 0.5]])), 0.8, 1.2, dual_clip=3.0)
    # 2 min(1.5, 1.2); 0; 0.5 max(-4, -3)
    torch.testing.assert_close(made.values, torch.tensor([[2.4, 0.0, -1.5]]))
    assert made.high.tolist() == [[True, False, False]]
    assert made.dual is not None
    assert made.dual.tolist() == [[False, False, True]]


class Pairs:
    """Two tokens a unit."""

    def sum(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (-1, 2)).sum(-1)

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / 2

    def spread(self, **values: Tensor) -> dict[str, Tensor]:
        return {name: value.repeat_interleave(2, -1) for name, value in values.items()}

    def tokens(self, flags: Tensor) -> Tensor:
        return 2 * flags.sum()


def test_units_share_term_correction_and_count() -> None:
    """Pairs with the ratios 1.5 and 0.5 within [0.8, 1.2], and the sums of advantages 1 + 2 = 3 and -1 - 1 = -2."""
    ratio = torch.tensor([[1.5, 0.5]])
    tokens = common.read_tokens(
        torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([[1.0, 2, -1, -1]]), torch.ones(1, 4)
    )
    made = objective(tokens, 0.8, 1.2, ratio=ratio, units=Pairs())
    torch.testing.assert_close(made.values, torch.tensor([[3.6, -1.6]]))  # 1.2 * 3, 0.8 * -2
    correction = torch.tensor([[1.0, 3.0, 0.5, 0.5]])  # means 2 and 0.5
    loss, metrics = made.loss("token-mean", GlobalBatch(), correction, {"mine": torch.tensor(7.0)})
    assert loss.item() == pytest.approx(-(2 * 3.6 - 0.5 * 1.6) / 4)
    assert metrics["actor/pg_clipfrac_low"] == metrics["actor/pg_clipfrac_high"] == 2 / 4
    assert metrics["mine"] == 7


def test_nan_reaches_the_loss() -> None:
    one = torch.ones(1, 2)
    tokens = common.read_tokens(one, torch.tensor([[1.0, math.nan]]), one, one)
    assert objective(tokens, 0.8, 1.2, dual_clip=3.0).values.isnan().tolist() == [[False, True]]

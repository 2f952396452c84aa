"""The `grpo_s` loss: hand-computed values, and verl's `gspo` where a row's ratios are equal."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo

from tests.losses.batches import Batch, actor_config, batches, random_batch
from verl_ext.losses.common import GlobalBatch
from verl_ext.losses.grpo_s import grpo_s_loss


def run(batch: Batch, /, **options: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss, its gradient with respect to log_prob, metrics."""
    leaf = batch.with_leaf()
    loss, metrics = grpo_s_loss(*leaf.loss_args(), **options)
    loss.backward()
    assert leaf.log_prob.grad is not None
    return loss.detach(), leaf.log_prob.grad, metrics


def test_golden() -> None:
    ratio = torch.tensor([[1.4, 0.8, 9.0], [1.5, 1.3, 9.0], [0.5, 0.6, 0.4], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
    advantages = torch.tensor([2.0, 1.0, -1.0, 5.0]).unsqueeze(-1).expand(4, 3)
    old = torch.full((4, 3), -1.0)
    loss, grad, metrics = run(
        Batch(old, old + ratio.log(), advantages, mask, old), clip_ratio_low=0.2, clip_ratio_high=0.2
    )
    # w: (1.4 + 0.8)/2 = 1.1; (1.5 + 1.3)/2 = 1.4; (0.5 + 0.6 + 0.4)/3 = 0.5
    # J: 1.1 * 2 = 2.2; min(1.4, 1.2) = 1.2; min(-0.5, -0.8) = -0.8; three rows are not empty
    assert loss.item() == pytest.approx(-(2.2 + 1.2 - 0.8) / 3, abs=1e-6)
    # dw/dl_t = r_t / n, and only the first row is unclipped: -2 * 1.4/2 / 3, -2 * 0.8/2 / 3
    want = torch.zeros(4, 3)
    want[0, :2] = torch.tensor([-1.4 / 3, -0.8 / 3])
    torch.testing.assert_close(grad, want)
    assert metrics["actor/grpo_s/ratio"] == pytest.approx((1.1 + 1.4 + 0.5) / 3)
    assert metrics["actor/pg_clipfrac_high"] == pytest.approx(2 / 7)
    assert metrics["actor/pg_clipfrac_low"] == pytest.approx(3 / 7)


@settings(max_examples=60, deadline=None)
@given(batches)
def test_equal_ratios_in_a_row_are_verls_gspo(batch: Batch) -> None:
    """The arithmetic and the geometric mean are then the same, in value and, with one advantage a row, in gradient."""
    change = (batch.log_prob - batch.old_log_prob)[:, :1]
    advantages = batch.advantages[:, :1].expand_as(batch.advantages)
    batch = replace(batch, log_prob=batch.old_log_prob + change, advantages=advantages)
    if not batch.response_mask.any(dim=-1).all():
        batch.response_mask[:, 0] = True  # verl divides by 0 for an empty row
    ours = run(batch)
    leaf = batch.with_leaf()
    config = actor_config(clip_ratio_low=0.2, clip_ratio_high=0.2)
    theirs, _ = compute_policy_loss_gspo(*leaf.loss_args(), "seq-mean-token-mean", config)
    theirs.backward()
    torch.testing.assert_close(ours[0], theirs.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], leaf.log_prob.grad, rtol=1e-4, atol=1e-5)


def test_unequal_ratios_are_not_the_geometric_mean() -> None:
    batch = random_batch(2, 2, 6, drift=1.0, fill=1.0)
    config = actor_config(clip_ratio_low=0.2, clip_ratio_high=0.2)
    theirs, _ = compute_policy_loss_gspo(*batch.loss_args(), "seq-mean-token-mean", config)
    assert abs(run(batch)[0].item() - theirs.item()) > 1e-2


@settings(max_examples=40, deadline=None)
@given(batches, st.integers(1, 4))
def test_micro_batches_add_up(batch: Batch, size: int) -> None:
    rows = batch.log_prob.shape[0]
    info = GlobalBatch(global_batch_size=rows)
    whole = run(batch, batch=info)
    parts = [run(batch.rows(slice(i, i + size)), batch=info) for i in range(0, rows, size)]
    torch.testing.assert_close(sum(part[0] for part in parts), whole[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("change", [-50.0, 50.0])
def test_huge_ratios_stay_finite(change: float) -> None:
    batch = random_batch(2, 2, 5, drift=0.0, fill=1.0)
    loss, grad, _ = run(replace(batch, log_prob=batch.log_prob + change))
    assert loss.isfinite()
    assert grad.isfinite().all()


def test_another_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match="grpo_s_loss: loss_agg_mode='token-mean' must be one of seq-mean-token-mean"):
        run(random_batch(0, 2, 3, drift=0.1), loss_agg_mode="token-mean")

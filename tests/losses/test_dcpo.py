"""The `dcpo` loss: hand-computed values, its equation, verl's `vanilla` where every old probability is 1."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla

from tests.losses.batches import Batch, actor_config, batches, random_batch
from verl_ext.losses.common import AGGREGATIONS, GlobalBatch
from verl_ext.losses.dcpo import _bounds, dcpo_loss


def run(batch: Batch, /, **options: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss, its gradient with respect to log_prob, metrics."""
    leaf = batch.with_leaf()
    loss, metrics = dcpo_loss(*leaf.loss_args(), **options)
    loss.backward()
    assert leaf.log_prob.grad is not None
    return loss.detach(), leaf.log_prob.grad, metrics


def tokens(old: list[float], ratio: list[float], advantages: list[float]) -> Batch:
    """One row, given by old probabilities and ratios."""
    q = torch.tensor([old]).log()
    return Batch(q, q + torch.tensor([ratio]).log(), torch.tensor([advantages]), torch.ones(1, len(old)), q)


def test_golden() -> None:
    batch = tokens(
        old=[0.1, 0.8, 0.002, 0.002, 0.5, 0.5],
        ratio=[3.0, 0.5, 12.0, 12.0, 0.4, 1.2],
        advantages=[1.0, -1.0, 1.0, -1.0, -2.0, 0.5],
    )
    loss, grad, metrics = run(batch, clip_ratio_low=0.15, clip_ratio_high=0.2)
    # 1: upper (1 + sqrt(1 + 0.8/0.1)) / 2 = (1 + 3) / 2 = 2, so min(3, 2) = 2
    # 2: lower (1 + sqrt(1 - 0.6/0.8)) / 2 = (1 + 0.5) / 2 = 0.75, so min(-0.5, -0.75) = -0.75
    # 3: upper (1 + sqrt(1 + 0.8/0.002)) / 2 = (1 + 20.02) / 2 = 10.5, capped at 10: min(12, 10) = 10
    # 4: min(-12, -10) = -12, raised to r_max A = -10
    # 5: 1 - 0.6/0.5 < 0, so lower 0.5: min(-0.8, -1) = -1
    # 6: upper (1 + sqrt(1 + 0.8/0.5)) / 2 = (1 + 1.61245) / 2 = 1.30623 > 1.2: 0.6
    # (2 - 0.75 + 10 - 10 - 1 + 0.6) / 6 = 0.85 / 6
    assert loss.item() == pytest.approx(-0.85 / 6, abs=1e-6)
    # Only the last token is unclipped: -(0.5 * 1.2) / 6
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, -0.1]]))
    assert metrics["actor/pg_clipfrac_high"] == pytest.approx(2 / 6)
    assert metrics["actor/pg_clipfrac_low"] == pytest.approx(2 / 6)
    assert metrics["actor/pg_clipfrac_lower"] == pytest.approx(1 / 6)
    assert metrics["actor/dcpo/capped"] == pytest.approx(2 / 6)


def test_the_authors_own_table() -> None:
    """github.com/lime-RL/DCPO, README: least and greatest p = r q at q = 0.9 and 0.01 with 0.16 and 0.2."""
    q = torch.tensor([0.9, 0.01])
    lower, upper = _bounds(q.log(), 0.16, 0.2, 10.0)
    assert (lower * q).tolist() == pytest.approx([0.69, 0.005], abs=5e-3)
    assert (upper * q).tolist() == pytest.approx([1.06, 0.05], abs=1e-2)
    # figure 4d: the bounds meet GRPO's 0.8 and 1.2 at q = 1 and at q = 1/1.2
    assert _bounds(torch.zeros(1), 0.16, 0.2, 10.0)[0].item() == pytest.approx(0.8)
    assert _bounds(torch.tensor([1 / 1.2]).log(), 0.16, 0.2, 10.0)[1].item() == pytest.approx(1.2)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-4, 1.0), st.floats(0.0, 0.24), st.floats(0.0, 1.0))
def test_bounds_solve_equation_3(q: float, low: float, high: float) -> None:
    lower, upper = (x.item() for x in _bounds(torch.tensor([q], dtype=torch.float64).log(), low, high, 1e9))
    assert (upper - 1) * upper * q == pytest.approx(high, abs=1e-9)
    if q >= 4 * low:
        assert (1 - lower) * lower * q == pytest.approx(low, abs=1e-9)
    else:
        assert lower == 0.5


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from(AGGREGATIONS))
def test_where_the_old_probability_is_1_it_is_verls_vanilla(batch: Batch, mode: str) -> None:
    # low 0.16: (1 + sqrt(1 - 0.64)) / 2 = 0.8; high 0.24: (1 + sqrt(1 + 0.96)) / 2 = 1.2
    batch = replace(batch, log_prob=batch.log_prob - batch.old_log_prob, old_log_prob=0 * batch.old_log_prob)
    if not batch.response_mask.any(dim=-1).all():
        batch.response_mask[:, 0] = True  # verl divides by 0 for an empty row
    ours = run(batch, clip_ratio_low=0.16, clip_ratio_high=0.24, loss_agg_mode=mode)
    leaf = batch.with_leaf()
    config = actor_config(clip_ratio_low=0.2, clip_ratio_high=0.2, clip_ratio_c=10.0)
    theirs, _ = compute_policy_loss_vanilla(*leaf.loss_args(), mode, config)
    theirs.backward()
    torch.testing.assert_close(ours[0], theirs.detach(), rtol=1e-4, atol=1e-5)
    # A ratio of exactly 0.8 or 1.2 may fall on either side of a bound that is one rounding step off.
    torch.testing.assert_close(ours[1], leaf.log_prob.grad, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(batches, st.integers(1, 4))
def test_micro_batches_add_up(batch: Batch, size: int) -> None:
    rows = batch.log_prob.shape[0]
    info = GlobalBatch(batch_num_tokens=int(batch.response_mask.sum()), global_batch_size=rows)
    whole = run(batch, batch=info)
    parts = [run(batch.rows(slice(i, i + size)), batch=info) for i in range(0, rows, size)]
    torch.testing.assert_close(sum(part[0] for part in parts), whole[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("old", [-200.0, -1e-7, 1e-6])
@pytest.mark.parametrize("change", [-50.0, 50.0])
def test_extreme_probabilities_stay_finite(old: float, change: float) -> None:
    batch = random_batch(1, 2, 5, drift=0.0, fill=1.0)
    old_log_prob = torch.full_like(batch.old_log_prob, old)
    for low in (0.0, 0.16):
        batch = replace(batch, old_log_prob=old_log_prob, log_prob=old_log_prob + change)
        loss, grad, metrics = run(batch, clip_ratio_low=low)
        assert loss.isfinite()
        assert grad.isfinite().all()
        assert all(math.isfinite(value) for value in metrics.values())


def test_what_is_masked_may_hold_nan() -> None:
    batch = random_batch(3, 3, 7, drift=0.3)
    dirty = Batch(
        *(getattr(batch, n).clone() for n in ("old_log_prob", "log_prob", "advantages")),
        batch.response_mask,
        batch.old_entropy,
    )
    for name in ("old_log_prob", "log_prob", "advantages"):
        getattr(dirty, name)[~batch.response_mask] = math.nan
    clean, got = run(batch), run(dirty)
    assert torch.equal(clean[0], got[0])
    assert torch.equal(clean[1], got[1])
    assert clean[2] == got[2]


def test_no_gradient_into_the_old_policy() -> None:
    batch = random_batch(3, 3, 7, drift=0.3, fill=1.0)
    batch.old_log_prob.requires_grad_()
    batch.advantages.requires_grad_()
    run(batch)
    assert batch.old_log_prob.grad is None
    assert batch.advantages.grad is None


def test_faults() -> None:
    with pytest.raises(ValueError, match="dcpo_loss: loss_agg_mode='mean' must be one of token-mean"):
        run(random_batch(0, 2, 3, drift=0.1), loss_agg_mode="mean")

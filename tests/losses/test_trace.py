"""What losses hand out about single tokens agrees with their values, gradients and metrics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings

from tests.losses.batches import Batch, batches, current_entropy, step
from verl_ext.losses import trace
from verl_ext.losses.dcpo import dcpo_loss
from verl_ext.losses.espo import espo_loss
from verl_ext.losses.grpo_s import grpo_s_loss
from verl_ext.losses.sspo import sspo_loss
from verl_ext.losses.steer import steer_loss
from verl_ext.losses.tepo import tepo_loss


def segments(batch: Batch) -> torch.Tensor:
    """Three tokens a segment."""
    width = batch.response_mask.shape[1]
    return (torch.arange(width) // 3).expand_as(batch.response_mask).masked_fill(~batch.response_mask, -1)


# Loss -> its arguments beside the batch; narrow ranges, so that much is clipped.
RANGE = {"clip_ratio_low": 0.05, "clip_ratio_high": 0.08}
CASES = {
    "espo": (espo_loss, lambda b: {"old_entropy": b.old_entropy, "vocab_size": 64, "alpha": 0.05}),
    "espo_sequence": (espo_loss, lambda b: {"grouping": "sequence", "clip": "fixed", **RANGE}),
    "sspo": (sspo_loss, lambda b: {"segment_ids": segments(b), "entropy_clip": False, **RANGE}),
    "sspo_adaptive": (
        sspo_loss,
        lambda b: {"segment_ids": segments(b), "old_entropy": b.old_entropy, "loss_agg_mode": "token-mean"},
    ),
    "tepo": (tepo_loss, lambda b: {"kl_coef": 0.0, "clip": "ppo", **RANGE}),
    "grpo_s": (grpo_s_loss, lambda b: RANGE),
    "dcpo": (dcpo_loss, lambda b: {}),
    "steer": (steer_loss, lambda b: {"entropy": current_entropy(b), **RANGE}),
}


def followed(name: str, batch: Batch):
    loss, arguments = CASES[name]
    with trace.traced() as seen:
        _, gradient, metrics = step(loss, batch, **arguments(batch))
    shape = batch.response_mask.shape
    return {key: value.expand(shape) for key, value in seen.items()}, gradient, metrics


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None)
@given(batch=batches)
def test_clipped_is_what_lies_beyond_the_bound_that_its_advantage_pushes_to(name: str, batch: Batch) -> None:
    """For a segment the sign is that of the sum of its advantages."""
    seen, _, metrics = followed(name, batch)
    valid, advantages = batch.response_mask, batch.advantages
    if name.startswith("sspo"):
        ids = segments(batch).clamp(min=0)
        kept = advantages.masked_fill(~valid, 0)
        advantages = torch.zeros_like(kept).scatter_add(-1, ids, kept).gather(-1, ids)
    beyond = ((advantages > 0) & (seen["ratio"] > seen["upper"])) | ((advantages < 0) & (seen["ratio"] < seen["lower"]))
    if name in ("steer", "dcpo"):  # their dual clip ends a ratio that is far too great where the advantage is negative
        beyond |= (advantages < 0) & (seen["ratio"] > (3 if name == "steer" else 10))
    assert torch.equal(seen["clipped"] & valid, beyond & valid)
    share = (seen["clipped"] & valid).sum() / valid.sum().clamp(min=1)
    assert metrics["actor/pg_clipfrac"] + metrics["actor/pg_clipfrac_lower"] == pytest.approx(float(share), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("sspo")])
@settings(deadline=None)
@given(batch=batches)
def test_a_row_whose_tokens_are_all_clipped_has_no_gradient(name: str, batch: Batch) -> None:
    seen, gradient, _ = followed(name, batch)
    done = (seen["clipped"] | ~batch.response_mask).all(-1)
    assert not gradient[done].any()


def test_ratio_and_bounds_of_a_segment_stand_at_each_of_its_tokens() -> None:
    """d = 0.3, 0.1 | -0.2: ratios exp(0.2), exp(0.2), exp(-0.2); the fixed range is the same everywhere."""
    old, new = torch.zeros(1, 3) - 1, torch.tensor([[-0.7, -0.9, -1.2]])
    one = torch.ones(1, 3)
    ids = torch.tensor([[0, 0, 1]])
    with trace.traced() as seen:
        sspo_loss(old, new, one, one, segment_ids=ids, entropy_clip=False, clip_ratio_low=0.2, clip_ratio_high=0.2)
    up, down = math.exp(0.2), math.exp(-0.2)
    torch.testing.assert_close(seen["ratio"], torch.tensor([[up, up, down]]))
    assert seen["clipped"].tolist() == [[True, True, False]]
    assert seen["upper"].tolist() == [[pytest.approx(1.2)] * 3]


def test_printed_tepo_has_no_lower_bound() -> None:
    """Ratio exp(mean d) = exp(0.5) above 1.28, and exp(-0.5) is not clipped whatever the advantage."""
    old, new = torch.zeros(2, 2) - 2, torch.tensor([[-1.5, -1.5], [-2.5, -2.5]])
    with trace.traced() as seen:
        tepo_loss(old, new, -torch.ones(2, 2), torch.ones(2, 2), kl_coef=0.0, clip_ratio_high=0.28)
    assert seen["clipped"].expand(2, 2).tolist() == [[True, True], [False, False]]
    assert seen["lower"].max() == -math.inf


def test_nobody_hears_of_a_loss_outside() -> None:
    with trace.traced() as seen:
        assert trace.listening()
    trace.note(ratio=torch.ones(1))
    assert not trace.listening()
    assert seen == {}

"""The `high_entropy` loss: hand-computed values, verl's `vanilla` with rho = 1, and what is kept."""

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
from verl_ext.config import HighEntropyLossConfig
from verl_ext.context import TokenContext, token_context
from verl_ext.losses.common import AGGREGATIONS, GlobalBatch
from verl_ext.losses.high_entropy import batch_groups, high_entropy_loss, token_data
from verl_ext.plugin import POLICY_LOSSES, PreparationData


def run(batch: Batch, /, **options: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss, its gradient with respect to log_prob, metrics; the batch's entropies are the current ones."""
    leaf = batch.with_leaf()
    options = {"entropy": batch.old_entropy, **options}
    loss, metrics = high_entropy_loss(*leaf.loss_args(), **options)
    loss.backward()
    assert leaf.log_prob.grad is not None
    return loss.detach(), leaf.log_prob.grad, metrics


def example() -> Batch:
    ratio = torch.tensor([[1.1, 1.3, 0.9, 1.5, 7.0], [1.0, 1.3, 0.5, 1.0, 1.0]])
    advantages = torch.tensor([1.0, -1.0]).unsqueeze(-1).expand(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    entropy = torch.tensor([[0.3, 0.1, 0.2, 2.0, 9.0], [0.5, 0.1, 3.0, 0.5, 0.2]])
    old = torch.full((2, 5), -1.0)
    return Batch(old, old + ratio.log(), advantages, mask, entropy)


def test_golden_row() -> None:
    loss, grad, metrics = run(example(), rho=0.4, clip_ratio_low=0.2, clip_ratio_high=0.2)
    # row 1, n = 4: ceil(1.6) = 2 tokens, entropies 2.0 and 0.3: min(1.5, 1.2) + min(1.1, 1.2) = 2.3, weight 4/2
    # row 2, n = 5: ceil(2.0) = 2 tokens, entropies 3.0 and the first 0.5: min(-0.5, -0.8) - 1 = -1.8, weight 5/2
    # token-mean over 9 tokens: (2 * 2.3 - 2.5 * 1.8) / 9 = 0.1 / 9
    assert loss.item() == pytest.approx(-0.1 / 9, abs=1e-6)
    want = torch.zeros(2, 5)
    want[0, 0], want[1, 0] = -1.1 * 2 / 9, 2.5 / 9
    torch.testing.assert_close(grad, want)
    assert metrics["actor/high_entropy/kept"] == pytest.approx(4 / 9)
    assert metrics["actor/pg_clipfrac_high"] == pytest.approx(1 / 9)  # the token 1.3 of row 1 is not among the kept
    assert metrics["actor/pg_clipfrac_low"] == pytest.approx(1 / 9)


def test_golden_batch() -> None:
    batch = example()
    groups = batch_groups(batch.old_entropy, batch.response_mask.bool(), rho=0.4, scope="batch")
    # 9 tokens, ceil(3.6) = 4 of them: 3.0 2.0 0.5 0.5 | 0.3 0.2 0.2 0.1 0.1
    want = [[0, 0, 0, 1, -1], [1, 0, 1, 1, 0]]
    assert groups is not None
    assert groups.tolist() == want
    loss = run(batch, rho=0.4, scope="batch", entropy=None, group_ids=groups, clip_ratio_high=0.2)[0]
    # 1.2 - 1 + min(-0.5, -0.8) - 1 = -1.6
    assert loss.item() == pytest.approx(1.6 / 3.6, abs=1e-6)


def test_the_controller_computes_nothing_for_a_row() -> None:
    batch = example()
    assert batch_groups(batch.old_entropy, batch.response_mask.bool(), rho=0.4, scope="row") is None
    assert batch_groups(batch.old_entropy, batch.response_mask.bool(), rho=1.0, scope="batch") is None


def test_needs_follow_the_options() -> None:
    assert token_data(0.2, "row") == ("entropy",)
    assert token_data(0.2, "batch") == ("group_ids",)
    assert token_data(1.0, "row") == token_data(1.0, "batch") == ()


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from(AGGREGATIONS), st.sampled_from(["row", "batch"]))
def test_all_tokens_are_verls_vanilla(batch: Batch, mode: str, scope: str) -> None:
    if not batch.response_mask.any(dim=-1).all():
        batch.response_mask[:, 0] = True  # verl divides by 0 for an empty row
    ours = run(batch, rho=1.0, scope=scope, entropy=None, clip_ratio_c=3.0, loss_agg_mode=mode)
    leaf = batch.with_leaf()
    config = actor_config(clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=3.0)
    theirs, metrics = compute_policy_loss_vanilla(*leaf.loss_args(), mode, config)
    theirs.backward()
    torch.testing.assert_close(ours[0], theirs.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], leaf.log_prob.grad, rtol=1e-4, atol=1e-5)
    assert ours[2]["actor/pg_clipfrac_lower"] == pytest.approx(metrics["actor/pg_clipfrac_lower"], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(batches, st.floats(0.05, 0.95), st.integers(1, 4), st.sampled_from(["row", "batch"]))
def test_micro_batches_add_up(batch: Batch, rho: float, size: int, scope: str) -> None:
    rows = batch.log_prob.shape[0]
    groups = batch_groups(batch.old_entropy, batch.response_mask, rho=rho, scope=scope)
    info = GlobalBatch(batch_num_tokens=int(batch.response_mask.sum()), global_batch_size=rows)

    def part(chosen: slice) -> tuple[Tensor, Tensor]:
        ids = None if groups is None else groups[chosen]
        return run(batch.rows(chosen), rho=rho, scope=scope, group_ids=ids, batch=info)[:2]

    whole = part(slice(None))
    parts = [part(slice(i, i + size)) for i in range(0, rows, size)]
    torch.testing.assert_close(sum(p[0] for p in parts), whole[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), whole[1], rtol=1e-5, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(batches, st.floats(0.05, 0.95))
def test_only_the_highest_entropies_of_a_row_learn(batch: Batch, rho: float) -> None:
    batch = replace(batch, log_prob=batch.old_log_prob.clone())  # nothing is clipped
    grad = run(batch, rho=rho)[1]
    for row in range(grad.shape[0]):
        valid = batch.response_mask[row]
        learns = grad[row] != 0
        count = int(valid.sum())
        assert int(learns.sum()) == math.ceil(rho * count - 1e-9)
        if learns.any() and (valid & ~learns).any():
            assert batch.old_entropy[row][learns].min() >= batch.old_entropy[row][valid & ~learns].max()


@pytest.mark.parametrize(("rho", "tokens", "kept"), [(0.2, 15, 3), (0.28, 25, 7), (0.2, 16, 4), (0.01, 5, 1)])
def test_how_many_are_kept(rho: float, tokens: int, kept: int) -> None:
    batch = random_batch(4, 1, tokens, drift=0.0, fill=1.0)
    assert run(batch, rho=rho)[2]["actor/high_entropy/kept"] == pytest.approx(kept / tokens)


def test_each_row_keeps_its_weight() -> None:
    """With one advantage a row and nothing clipped, the loss is that of all tokens, whatever the lengths."""
    batch = random_batch(4, 5, 9, drift=0.0)
    batch = replace(batch, advantages=batch.advantages[:, :1].expand(5, 9))
    for mode in AGGREGATIONS:
        some, everything = (run(batch, rho=rho, loss_agg_mode=mode)[0] for rho in (0.3, 1.0))
        torch.testing.assert_close(some, everything)


@pytest.mark.parametrize("position", [1, 3])  # discarded, kept
def test_nan_at_a_valid_token_is_not_hidden(position: int) -> None:
    batch = example()
    batch.log_prob[0, position] = math.nan
    assert run(batch, rho=0.4)[0].isnan()


def test_what_is_masked_may_hold_nan() -> None:
    batch = random_batch(3, 3, 7, drift=0.3)
    names = ("old_log_prob", "log_prob", "advantages", "old_entropy")
    dirty = replace(batch, **{name: getattr(batch, name).masked_fill(~batch.response_mask, math.nan) for name in names})
    clean, got = run(batch), run(dirty)
    assert torch.equal(clean[0], got[0])
    assert torch.equal(clean[1], got[1])
    assert clean[2] == got[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scope": "micro_batch"}, ["scope='micro_batch'", "row, batch"]),
        ({"entropy": None}, ["high_entropy needs entropy"]),
        ({"scope": "batch"}, ["high_entropy needs group_ids"]),
        ({"entropy": torch.zeros(2, 6)}, ["entropy", "(2, 6)"]),
    ],
)
def test_faults(options: Any, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^(high_entropy|these must)") as raised:
        run(random_batch(0, 2, 5, drift=0.1), **options)
    for word in words:
        assert word in str(raised.value)


def test_through_verls_signature() -> None:
    with pytest.raises(ValueError, match=r"rho=0 must be a finite number > 0 and <= 1"):
        HighEntropyLossConfig(rho=0)
    batch = example()
    hyper = {"rho": 0.4, "scope": "batch"}
    method = POLICY_LOSSES["high_entropy"]
    assert method.prepare is not None
    data = PreparationData(batch.old_entropy.long(), batch.response_mask.bool(), batch.old_entropy, None)
    groups = method.prepare(data, **hyper)
    config = actor_config(HighEntropyLossConfig(**hyper), clip_ratio_low=0.1, clip_ratio_high=0.3, clip_ratio_c=5.0)
    with token_context(TokenContext(group_ids=groups)):
        got, _ = method(*batch.loss_args(), "token-mean", config)
    keys = {"clip_ratio_low": 0.1, "clip_ratio_high": 0.3, "clip_ratio_c": 5.0}
    assert torch.equal(got, run(batch, group_ids=groups, **keys, **hyper)[0])

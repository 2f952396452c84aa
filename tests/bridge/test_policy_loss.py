"""The token context around verl's own `ppo_loss`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import verl.trainer.distillation.losses as distillation
import verl.workers.engine_workers as engine_workers
import verl.workers.utils.losses as upstream
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template

from tests.bridge.micro_batches import PROMPT, actor, jagged, micro_batch
from verl_ext import current_context
from verl_ext.bridge import fields
from verl_ext.bridge.policy_loss import align, vocab_size
from verl_ext.context import MissingTokenData, TokenContext

Calls = list[tuple[TokenContext, dict[str, Any]]]


@pytest.fixture
def probe() -> Iterator[Calls]:
    """A registered loss called `probe` that keeps the context and the arguments of each of its calls."""
    calls: Calls = []

    def loss(log_prob: torch.Tensor, response_mask: torch.Tensor, **others: Any) -> tuple[torch.Tensor, dict]:
        calls.append((current_context(), {"log_prob": log_prob, "response_mask": response_mask, **others}))
        return (log_prob * response_mask).sum(), {}

    POLICY_LOSS_REGISTRY["probe"] = loss
    yield calls
    del POLICY_LOSS_REGISTRY["probe"]


# --- align


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_align_pads_rows_of_equal_length_as_verl_pads_the_mask(lengths: list[int]) -> None:
    rows = [1.0 + torch.arange(n) for n in lengths]
    mask = jagged([torch.ones(n) for n in lengths])
    found = align("entropy", jagged(rows), mask)
    assert found.shape == mask.to_padded_tensor(0).shape == (len(lengths), max(lengths))
    for row, expected in zip(found, rows, strict=True):
        assert torch.equal(row, torch.cat([expected, torch.zeros(max(lengths) - len(expected))]))


def test_align_cuts_a_padding_row_that_kept_its_source_rows_length() -> None:
    """Made by verl itself: the mask of its padding row has one entry, a field it does not know keeps four."""
    source = {
        "prompts": torch.zeros(PROMPT, dtype=torch.long),
        "responses": torch.ones(4, dtype=torch.long),
        "position_ids": torch.arange(PROMPT + 4),
        "segment_ids": torch.tensor([0, 0, 1, 1]),
    }
    padding, _ = construct_minimal_padding_template(source, {"seq_len": 6}, 257)
    assert len(padding["segment_ids"]) == 4
    assert padding["response_mask"].tolist() == [0]
    # A real row on either side: each must be read from where it begins.
    first, last = torch.tensor([0, 1]), torch.tensor([2, 3])
    mask = jagged([torch.ones_like(first), padding["response_mask"], torch.ones_like(last)])
    found = align("segment_ids", jagged([first, padding["segment_ids"], last]), mask)
    assert found.tolist() == [[0, 1], [0, -1], [2, 3]]  # two columns, as the mask has


def test_align_fills_a_padding_row_that_is_too_short() -> None:
    mask = jagged([torch.ones(2), torch.zeros(3)])
    assert align("x", jagged([torch.ones(2), torch.ones(1)]), mask).tolist() == [[1, 1, 0], [1, 0, 0]]


def test_align_names_every_row_that_counts_and_does_not_fit() -> None:
    mask = jagged([torch.ones(2), torch.ones(3), torch.zeros(1), torch.tensor([0.0, 1.0])])
    values = jagged([torch.ones(2), torch.ones(5), torch.ones(4), torch.ones(1)])
    with pytest.raises(ValueError, match="'segment_ids' is not aligned") as caught:
        align("segment_ids", values, mask)
    text = str(caught.value)
    assert "row 1: 5 values for 3 response tokens" in text
    assert "row 3: 1 values for 2 response tokens" in text
    assert "row 0" not in text
    assert "row 2" not in text


def test_align_leaves_dense_values_alone_and_pads_jagged_ones_to_a_dense_mask() -> None:
    dense = torch.rand(2, 3)
    assert align("x", dense, torch.ones(2, 3)) is dense
    assert align("x", jagged([torch.ones(1), torch.ones(3)]), torch.ones(2, 3)).tolist() == [
        [1, 0, 0],
        [1, 1, 1],
    ]


# --- the context that a loss sees


def test_a_loss_sees_the_other_token_data_of_its_micro_batch(probe: Calls) -> None:
    lengths = [3, 1, 4]
    reference = [-torch.rand(n) for n in lengths]
    segments = [torch.arange(n) for n in lengths]
    data, output = micro_batch(lengths, ref_log_prob=reference, segment_ids=segments)
    output["entropy"] = jagged([torch.arange(PROMPT + n) + 10.0 * row for row, n in enumerate(lengths)])
    output["entropy"].requires_grad_()
    engine_workers.ppo_loss(actor("probe", vocab_size=301), output, data)

    ((context, arguments),) = probe
    mask = arguments["response_mask"]
    assert mask.shape == (3, 4)
    assert torch.equal(context.old_entropy, data["entropy"].to_padded_tensor(0))
    assert torch.equal(context.old_log_prob, arguments["old_log_prob"])
    assert torch.equal(context.ref_log_prob, jagged(reference).to_padded_tensor(0))
    assert context.segment_ids.tolist() == [[0, 1, 2, -1], [0, -1, -1, -1], [0, 1, 2, 3]]
    assert context.vocab_size == 301
    assert context.verified is None
    # The output at position p is about token p + 1: n response tokens have positions PROMPT-1 .. PROMPT+n-2.
    assert context.entropy.tolist() == [[1, 2, 3, 0], [11, 0, 0, 0], [21, 22, 23, 24]]
    for field in ("old_entropy", "entropy", "ref_log_prob", "old_log_prob"):
        assert not getattr(context, field).requires_grad, field
    assert arguments["log_prob"].requires_grad


def test_the_context_ends_with_the_call(probe: Calls) -> None:
    data, output = micro_batch([2])
    engine_workers.ppo_loss(actor("probe"), output, data)
    assert current_context() == TokenContext()
    assert probe[0][0] != TokenContext()


def test_what_is_not_in_the_batch_is_none(probe: Calls) -> None:
    data, output = micro_batch([2, 3])
    engine_workers.ppo_loss(actor("probe"), output, data.exclude("entropy"))
    context = probe[0][0]
    assert context.old_entropy is None
    assert context.entropy is None
    assert context.ref_log_prob is None
    assert context.segment_ids is None


def test_distillation_has_the_same_context(probe: Calls) -> None:
    """Its module holds a name of its own for `ppo_loss`."""
    data, output = micro_batch([3, 2])
    distillation.ppo_loss(actor("probe"), output, data)
    assert probe[0][0].old_entropy.shape == (2, 3)
    assert "ppo_loss(config, model_output, data, dp_group)" in inspect.getsource(distillation.distillation_ppo_loss)


def test_loss_and_metrics_are_verls_own_plus_the_execution_report() -> None:
    """With `vanilla`, which reads no context, the wrapper changes no number."""
    data, output = micro_batch([3, 5, 2])
    bound, metrics = engine_workers.ppo_loss(actor("vanilla"), output, data)
    plain, plain_metrics = upstream.ppo_loss(actor("vanilla"), output, data)
    assert torch.equal(bound, plain)
    assert set(metrics) - set(plain_metrics) == {"actor/verl_ext/execution"}
    assert set(plain_metrics) <= set(metrics)


def test_espo_runs_through_verls_ppo_loss_and_has_a_gradient() -> None:
    data, output = micro_batch([3, 5, 2])
    loss, metrics = engine_workers.ppo_loss(actor("espo"), output, data)
    (gradient,) = torch.autograd.grad(loss, output["log_probs"])
    assert torch.isfinite(loss)
    assert gradient.values().abs().sum() > 0
    assert "actor/espo/group0/eps" in metrics


def test_espo_without_entropies_says_which_method_which_field_and_which_setting() -> None:
    data, output = micro_batch([3, 2])
    with pytest.raises(MissingTokenData) as caught:
        engine_workers.ppo_loss(actor("espo"), output, data.exclude("entropy"))
    text = str(caught.value)
    assert "`espo`" in text
    assert "old_entropy" in text
    assert "algorithm.rollout_correction.bypass_mode" in text


def test_vocab_size_is_looked_up_where_vision_models_keep_it() -> None:
    def config(**hf_config: Any) -> dict[str, Any]:
        return {"model_config": SimpleNamespace(hf_config=SimpleNamespace(**hf_config))}

    assert vocab_size(config(vocab_size=7)) == 7
    assert vocab_size(config(text_config=SimpleNamespace(vocab_size=9))) == 9
    assert vocab_size(config()) is None
    assert vocab_size({}) is None


# --- contracts


def test_contract_ppo_loss_is_looked_up_by_name_in_both_modules() -> None:
    assert list(inspect.signature(upstream.ppo_loss).parameters) == [
        "config",
        "model_output",
        "data",
        "dp_group",
    ]
    assert "verl_ext" not in upstream.ppo_loss.__code__.co_filename
    for module in (engine_workers, distillation):
        assert inspect.unwrap(module.ppo_loss) is upstream.ppo_loss
        assert "verl_ext" in module.ppo_loss.__code__.co_filename
    assert "partial(ppo_loss, config=actor_config)" in inspect.getsource(engine_workers.ActorRolloutRefWorker)


def test_contract_verl_still_hands_a_loss_no_other_token_data() -> None:
    call = inspect.getsource(upstream.ppo_loss).split("pg_metrics = policy_loss_fn(")[1].split(")")[0]
    names = [line.split("=")[0].strip() for line in call.strip().splitlines()]
    assert names == [
        "old_log_prob",
        "log_prob",
        "advantages",
        "response_mask",
        "loss_agg_mode",
        "config",
        "rollout_is_weights",
    ]


def test_every_field_is_one_of_the_token_context() -> None:
    assert set(fields.FIELDS.values()) <= set(TokenContext.__dataclass_fields__)

"""ESPO through verl's stock entry point, on a dense model and on a mixture of experts."""

from __future__ import annotations

import pytest
import torch
from planted import PLANTED

pytestmark = pytest.mark.ray


# The mixture of experts by hand: SSPO's run has one in every `make test`.
@pytest.fixture(params=["dense", pytest.param("moe", marks=pytest.mark.slow)])
def finished(request: pytest.FixtureRequest):
    run = request.getfixturevalue(request.param)
    assert run.returncode == 0, run.tail()
    return run


def entropies(model, record: dict) -> torch.Tensor:
    """Old entropies of a recorded micro-batch from a float32 forward pass of transformers, padded with 0."""
    rows = []
    for prompt, response in zip(record["prompts"], record["responses"], strict=True):
        with torch.no_grad():
            logits = model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1].float()
        log_p = torch.log_softmax(logits, -1)
        rows.append(-(log_p.exp() * log_p).sum(-1))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def reference(run):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(run.folder.parent / "model", dtype=torch.float32).eval()


def test_the_loss_that_ran_is_espo(finished) -> None:
    (line,) = finished.executions
    assert line["loss"] == "espo"
    assert line["entropy_source"] == "actor"
    assert line["hyper_parameters"]["alpha"] == 0.02
    assert line["hyper_parameters"]["loss_agg_mode"] == "seq-mean-token-mean"
    assert line["function"] == "verl_ext.losses.espo.espo_loss"
    assert line["on_policy_ratio_noise"] is None or line["on_policy_ratio_noise"] < 1e-4


def test_old_entropies_arrive_aligned_token_by_token(finished) -> None:
    model, records = reference(finished), finished.step(0)
    assert len(records) >= 4, "dynamic batching should cut the two mini-batches of 16 rows into several micro-batches"
    shifted_by_one = 0.0
    for record in records:
        expected, got = entropies(model, record), record["context"]["old_entropy"]
        mask = torch.nn.utils.rnn.pad_sequence(record["response_mask"], batch_first=True).bool()
        assert got.dtype == torch.float32
        assert got.shape == mask.shape
        if not mask.any():
            continue
        assert (got - expected)[mask].abs().max() <= 1e-3
        shifted_by_one = max(shifted_by_one, float((got.roll(1, 1) - expected)[mask].abs().max()))
    assert shifted_by_one > 0.1, "the model's entropies are too even for this test to notice a misalignment"


def test_planted_token_is_where_the_entropy_is_low(finished) -> None:
    """After token 65 the next token is certain, and nowhere else; the loss must see exactly that."""
    after, elsewhere = [], []
    for record in finished.step(0):
        for row, (prompt, response) in enumerate(zip(record["prompts"], record["responses"], strict=True)):
            if not record["response_mask"][row].any():
                continue
            previous = torch.cat([prompt[-1:], response[:-1]])
            seen = record["context"]["old_entropy"][row, : len(response)]
            after += seen[previous == PLANTED].tolist()
            elsewhere += seen[previous != PLANTED].tolist()
    assert len(after) >= 5
    assert max(after) < 0.01 < min(elsewhere)


def test_clip_fraction_is_alive(finished) -> None:
    fractions = [step["actor/pg_clipfrac"] for step in finished.steps]
    assert any(0 < fraction < 1 for fraction in fractions), fractions


def test_rollout_and_actor_agree_at_every_step(finished) -> None:
    for step in finished.steps:
        assert step["training/rollout_log_probs_diff_max"] <= 1e-3
        assert 0 < step["training/rollout_entropy_diff_mean"] <= step["training/rollout_entropy_diff_max"] <= 1e-3
        assert step["training/rollout_entropies_nonfinite"] == step["training/entropy_nonfinite"] == 0
        assert step["actor/weight_sync/mismatches"] == 0
        assert step["actor/weight_sync/tensors"] > 20


def test_crashed_gradings_become_padding_rows_without_influence(dense) -> None:
    """The reward crashes for some responses; verl fills their places with rows whose mask is all zero."""
    # Over all steps: which responses crash is chance, and that none does in 96 rows has odds of 0.8^96.
    rows = [
        row for record in dense.records() for row in zip(record["response_mask"], record["advantages"], strict=True)
    ]
    padding = [advantages for mask, advantages in rows if not mask.any()]
    assert padding, "no grading crashed; the test's reward should make some"
    assert all(float(advantages.abs().max()) == 0 for advantages in padding)
    assert any(step["reward/outcome/timeout"] > 0 for step in dense.steps)


def test_unverified_rows_get_no_advantage(dense) -> None:
    import zlib

    from verl_ext.toy.models import build_tokenizer

    tokenizer, unverified = build_tokenizer(), []
    for record in dense.records():
        for mask, response, advantages in zip(
            record["response_mask"], record["responses"], record["advantages"], strict=True
        ):
            text = tokenizer.decode(response, skip_special_tokens=True)
            if mask.any() and zlib.crc32(text.encode()) % 7 == 0:
                unverified.append(float(advantages.abs().max()))
    assert unverified
    assert max(unverified) == 0

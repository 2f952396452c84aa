"""SSPO, TEPO, STEER and ERPO through verl's stock entry point: each ran, and what makes it that method is alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import trainer
from planted import BRANCHES, DELIMITER, FORK

pytestmark = pytest.mark.ray


def padded(record: dict[str, Any], name: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(record[name], batch_first=True)


def only_execution(run: trainer.Run) -> dict[str, Any]:
    assert run.returncode == 0, run.tail()
    (line,) = run.executions
    return line


# --- SSPO


def test_sspo_ran(sspo: trainer.Run) -> None:
    line = only_execution(sspo)
    assert line["loss"] == "sspo"
    assert line["function"] == "verl_ext.losses.sspo.sspo_loss"
    assert line["hyper_parameters"]["delimiter"] == DELIMITER
    assert "segment_ids" in line["fields"]


def test_sspo_rows_have_several_segments(sspo: trainer.Run) -> None:
    assert all(step["actor/sspo/segments"] > 1 for step in sspo.steps), sspo.steps


def test_sspo_segments_end_where_the_responses_have_the_delimiter(sspo: trainer.Run) -> None:
    """Token by token in the loss, after the queue, the padding rows and dynamic batching."""
    delimiters = 0
    for record in sspo.records():
        for row, response in enumerate(record["responses"]):
            mask = record["response_mask"][row].bool()
            got = record["context"]["segment_ids"][row]
            expected, segment = [], 0
            for position, token in enumerate(response.tolist()):
                expected.append(segment if mask[position] else -1)
                if position and [response[position - 1].item(), token] == [FORK, BRANCHES[0]]:
                    segment += 1
                    delimiters += bool(mask[position])
            assert got[: len(expected)].tolist() == expected
            assert (got[len(expected) :] == -1).all()
    assert delimiters > 20


def test_sspo_clips_with_bounds_that_follow_the_entropy(sspo: trainer.Run) -> None:
    for step in sspo.steps:
        assert 0.2 <= step["actor/sspo/eps_low"] <= 1
        assert 0 < step["actor/sspo/eps_high"] <= 0.75  # gamma - 1


# --- TEPO


def test_tepo_ran(erpo_with_tepo: trainer.Run) -> None:
    line = only_execution(erpo_with_tepo)
    assert line["loss"] == "tepo"
    assert line["function"] == "verl_ext.losses.tepo.tepo_loss"
    assert line["hyper_parameters"]["kl_coef"] == 1
    assert line["hyper_parameters"]["loss_agg_mode"] == "token-mean"
    assert "ref_log_prob" in line["fields"]


def kl_masks(records: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 4's M and the response mask over all tokens of these calls, flat."""
    masks, valid = [], []
    for record in records:
        seen = record["context"]
        falls = seen["entropy"] < seen["old_entropy"]
        masks.append(((padded(record, "advantages") > 0) & falls).flatten())
        valid.append(padded(record, "response_mask").bool().flatten())
    return torch.cat(masks), torch.cat(valid)


def test_tepo_penalises_some_tokens_from_the_second_mini_batch_on(erpo_with_tepo: trainer.Run) -> None:
    second = []
    for number in range(len(erpo_with_tepo.steps)):
        rows = 0
        for record in erpo_with_tepo.step(number):
            if rows >= trainer.MINI_BATCH:
                second.append(record)
            rows += len(record["responses"])
    mask, valid = kl_masks(second)
    share = (mask & valid).sum() / valid.sum()
    assert 0 < share < 1, share


def test_tepo_reports_the_share_that_its_data_give(erpo_with_tepo: trainer.Run) -> None:
    penalties = []
    for record in erpo_with_tepo.records():
        mask, valid = kl_masks([record])
        expected = float((mask & valid).sum() / valid.sum().clamp(min=1))
        assert record["metrics"]["actor/tepo/kl_mask"] == pytest.approx(expected, abs=1e-6)
        penalties.append(record["metrics"]["actor/tepo/kl"])
    assert max(penalties) > 0


# --- STEER


@pytest.mark.slow
def test_steer_ran_and_weights_some_tokens_down(steer: trainer.Run) -> None:
    line = only_execution(steer)
    assert line["loss"] == "steer"
    assert line["function"] == "verl_ext.losses.steer.steer_loss"
    for step in steer.steps:
        assert 0.8 <= step["actor/steer/weight"] < 1
        assert step["actor/steer/entropy_change"] > 0


# --- ERPO, in TEPO's run


def whole_step(run: trainer.Run, number: int) -> dict[str, Any]:
    """All rows of a training step, padded, as the estimator saw them on the controller."""
    records = run.step(number)
    names = ("advantages", "response_mask", "rm_scores", "ref_log_prob", "old_log_probs", "entropy")
    rows = {name: [row for record in records for row in record[name]] for name in names}
    columns = {name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True) for name, values in rows.items()}
    return {**columns, "uid": [uid for record in records for uid in record["uid"]]}


def test_erpo_advantages_are_those_of_its_definition_and_differ_within_a_row(erpo_with_tepo: trainer.Run) -> None:
    from verl_ext.advantages.erpo import erpo_advantage

    for number in range(3):
        batch = whole_step(erpo_with_tepo, number)
        expected, _ = erpo_advantage(
            batch["rm_scores"],
            batch["response_mask"],
            batch["uid"],
            old_entropy=batch["entropy"],
            old_log_prob=batch["old_log_probs"],
            ref_log_prob=batch["ref_log_prob"],
        )
        torch.testing.assert_close(batch["advantages"], expected, rtol=1e-4, atol=1e-4)
        if number == 0:
            continue  # the policy still equals the reference
        valid = batch["response_mask"].bool()
        learning = batch["advantages"].abs().amax(dim=-1) > 0
        assert learning.sum() >= 8
        for row in torch.nonzero(learning & (valid.sum(-1) > 1)).flatten():
            assert batch["advantages"][row][valid[row]].std() > 1e-4


def test_erpo_keeps_the_sign_rule(erpo_with_tepo: trainer.Run) -> None:
    """Psi has the sign of the row's outcome where the token's progress is above its bucket's mean, else the other."""
    from verl_ext.advantages.erpo import process_signal

    batch = whole_step(erpo_with_tepo, 2)
    signal = process_signal(
        batch["rm_scores"],
        batch["response_mask"],
        batch["uid"],
        data={
            "old_entropy": batch["entropy"],
            "old_log_prob": batch["old_log_probs"],
            "ref_log_prob": batch["ref_log_prob"],
        },
        beta_progress=1.0,
        gamma=1.0,
        num_buckets=10,
        sigma_target=1.0,
        delta=1e-6,
    )
    progress = (batch["old_log_probs"] - batch["ref_log_prob"]).double()
    buckets: dict[tuple[str, int], list[float]] = {}
    tokens = []
    for row, mask in enumerate(batch["response_mask"].bool()):
        length = int(mask.sum())
        for position in range(length):  # responses of this task have no gaps
            bucket = (batch["uid"][row], min(10 * position // length, 9))
            buckets.setdefault(bucket, []).append(progress[row, position].item())
            tokens.append((row, position, bucket))
    right = 0
    for row, position, bucket in tokens:
        above = progress[row, position] - sum(buckets[bucket]) / len(buckets[bucket])
        if above.abs() < 1e-6:
            continue  # rounding decides
        psi, outcome = signal.psi[row, position], signal.outcome[row]
        assert torch.sign(psi) == torch.sign(outcome) * torch.sign(above)
        right += bool(psi != 0)
    assert right > 100

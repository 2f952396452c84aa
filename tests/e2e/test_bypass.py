"""Bypass mode through verl's stock entry point: old log-probs and old entropies both come from the rollout.

Of two bigram models: SSPO on a mixture of experts and, by hand, ESPO on a dense model.
"""

from __future__ import annotations

import math

import pytest
import torch
from planted import BRANCHES, FORK

pytestmark = pytest.mark.ray


@pytest.fixture(params=["sspo", pytest.param("bypass", marks=pytest.mark.slow)])
def finished(request: pytest.FixtureRequest):
    run = request.getfixturevalue(request.param)
    assert run.returncode == 0, run.tail()
    return run


def test_the_workers_name_the_rollout_as_the_source(finished) -> None:
    (line,) = finished.executions
    assert line["entropy_source"] == "rollout"
    assert "rollout_entropies" in line["fields"]
    assert "entropy" not in line["fields"]
    assert line["on_policy_ratio_noise"] is None or line["on_policy_ratio_noise"] < 1e-4


def test_there_is_no_pass_of_the_actor_before_the_update(finished) -> None:
    assert len(finished.steps) == 2
    for step in finished.steps:
        phases = {name.removeprefix("timing_s/") for name in step if name.startswith("timing_s/")}
        assert "update_actor" in phases
        assert "old_log_prob" not in phases
        assert step["timing_s/copy_rollout_log_probs"] < 1
        assert "perf/mfu/actor_infer" not in step


def test_the_method_trains(finished, request: pytest.FixtureRequest) -> None:
    method = {"bypass": "espo", "sspo": "sspo"}[request.node.callspec.params["finished"]]
    assert [line["loss"] for line in finished.executions] == [method]
    for step in finished.steps:
        assert math.isfinite(step["actor/pg_loss"])
        assert step["actor/grad_norm"] > 0
        assert step["training/rollout_entropies_nonfinite"] == 0
        assert step["actor/weight_sync/mismatches"] == 0
        assert step["actor/weight_sync/tensors"] > 20


def test_every_row_has_an_entropy_for_each_token_padding_rows_included(finished) -> None:
    padding = 0
    for record in finished.records():
        assert record["context"]["old_entropy"].dtype == torch.float32
        for row, response in enumerate(record["responses"]):
            own = record["rollout_entropies"][row]
            assert len(own) == len(response) == len(record["old_log_probs"][row])
            padding += not bool(record["response_mask"][row].any())
            seen = record["context"]["old_entropy"][row]
            assert seen[: len(own)].tolist() == own.tolist()
            assert not seen[len(own) :].any()
    assert padding, "no grading crashed; the test's reward should make some"


def test_old_log_probs_are_those_of_the_rollout(finished) -> None:
    for record in finished.records():
        for old, rollout in zip(record["old_log_probs"], record["rollout_log_probs"], strict=True):
            assert old.tolist() == rollout.tolist()


def test_the_planted_entropy_of_ln_2_arrives_at_the_right_tokens(finished) -> None:
    """After token 70 two successors are equally likely; in the loss the entropy there, and only there, is ln 2."""
    records, after, elsewhere = finished.step(0), [], []
    assert len(records) >= 4, "dynamic batching should cut the two mini-batches of 16 rows into several micro-batches"
    for record in records:
        for row, (prompt, response) in enumerate(zip(record["prompts"], record["responses"], strict=True)):
            if not record["response_mask"][row].any():
                continue
            previous = torch.cat([prompt[-1:], response[:-1]])
            seen = record["context"]["old_entropy"][row, : len(response)]
            after += seen[previous == FORK].tolist()
            elsewhere += seen[previous != FORK].tolist()
            assert set(response[previous == FORK].tolist()) <= set(BRANCHES)
    assert len(after) >= 20
    assert max(abs(entropy - math.log(2)) for entropy in after) <= 1e-5
    assert min(abs(entropy - math.log(2)) for entropy in elsewhere) > 0.1

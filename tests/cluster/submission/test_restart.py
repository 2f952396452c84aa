"""Which failures are worth another attempt."""

from __future__ import annotations

import pytest

from verl_ext.cluster.submission.restart import Outcome, decide

FAILED = Outcome("FAILED", 1, "JOB_ENTRYPOINT_COMMAND_ERROR")


def traceback(*messages: str) -> list[str]:
    return [
        line for message in messages for line in ("Traceback (most recent call last):", '  File "a.py"', message, "")
    ]


@pytest.mark.parametrize(
    ("outcome", "restart"),
    [
        (Outcome("SUCCEEDED", 0), False),
        (Outcome("STOPPED"), False),
        (Outcome("FAILED", -9), True),
        (Outcome("FAILED", 137), True),
        (Outcome("FAILED", 143), True),
        (Outcome("FAILED", 75), True),
        (Outcome("FAILED", 130), False),  # SIGINT: somebody wanted that
        (Outcome("FAILED", 1), False),
        (Outcome("FAILED", 2), False),
        (Outcome("FAILED", 127), False),
        (Outcome("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE"), False),
        (Outcome("FAILED", None, "JOB_ENTRYPOINT_COMMAND_START_ERROR"), False),
        (Outcome("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED"), True),
        (Outcome("FAILED", None, "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"), True),
    ],
)
def test_by_the_way_it_ended(outcome: Outcome, restart: bool) -> None:
    assert decide(outcome, []).restart is restart


@pytest.mark.parametrize(
    "message",
    [
        "verl_ext.composing.errors.ConfigError: the configuration cannot run:",
        "omegaconf.errors.ConfigAttributeError: Key 'x' is not in struct",
        "ModuleNotFoundError: No module named 'flash_attn'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/train.parquet'",
        "OSError: [Errno 28] No space left on device",
        "ValueError: Total available GPUs 4 is less than total desired GPUs 8",
        "KeyError: 'uid'",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_faults_that_stay(message: str) -> None:
    assert not decide(FAILED, traceback(message)).restart


@pytest.mark.parametrize(
    "message",
    [
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
        "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2395, remote process exited",
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    ],
)
def test_losses_that_may_pass(message: str) -> None:
    found = decide(FAILED, traceback(message))
    assert found.restart
    assert found.reason == message


def test_a_fault_that_stays_outweighs_what_follows_from_it() -> None:
    log = traceback("ImportError: cannot import name 'x'", "ConnectionResetError: [Errno 104] Connection reset by peer")
    assert not decide(FAILED, log).restart
    assert decide(FAILED, log[4:]).restart


def test_an_actor_that_died_of_a_fault_is_not_started_again() -> None:
    log = traceback("ValueError: batch size 3", "ray.exceptions.ActorDiedError: The actor died because of an error")
    assert not decide(FAILED, log).restart


def test_words_outside_an_error_do_not_count() -> None:
    log = ["INFO Connection reset, trying again", *traceback("KeyError: 'uid'")]
    assert not decide(FAILED, log).restart


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome("SUCCEEDED"), 0), (Outcome("FAILED", 3), 3), (Outcome("FAILED", -15), 143), (Outcome("FAILED"), 1)],
)
def test_exit_codes(outcome: Outcome, code: int) -> None:
    assert outcome.exit_code == code

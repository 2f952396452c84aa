"""Whole runs with a fault: each ends by itself, in time, with a sentence, and leaves no process behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import trainer
from verl_ext.process import ProcessFamily

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

HERE = Path(__file__).resolve().parent
LIMIT_S = 480.0
REWARD = "reward.custom_reward_function"


@dataclass
class Ended:
    """A run that has ended.

    Attributes:
        seconds: from the fault to the end of the driver's process.
        pid: the process that had the fault.
        left: processes of the run that were still there 15 s after its end.
    """

    status: int
    seconds: float
    pid: int
    left: int
    log: str
    stacks: dict[str, str]

    def tail(self) -> str:
        return "\n".join(self.log.splitlines()[-80:])


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    from verl_ext.toy.models import build_untrained

    model = build_untrained("tiny_dense", True, tmp_path / "model", seed=0)
    problems(tmp_path)

    def go(fault: str, *arguments: str) -> Ended:
        command = [sys.executable, "-m", "verl.trainer.main_ppo", *trainer.overrides(model, tmp_path, steps=4)]
        command += [f"trainer.default_local_dir={tmp_path}/out", f"hydra.run.dir={tmp_path}/hydra", *arguments]
        env = {
            **os.environ,
            "VERL_FILE_LOGGER_PATH": str(tmp_path / "metrics.jsonl"),
            "VERL_USE_EXTERNAL_MODULES": "watchdog_faults",
            "WATCHDOG_FAULT": fault,
            "WATCHDOG_MOMENT": str(tmp_path / "moment"),
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        with trainer.one_at_a_time():
            return _follow(ProcessFamily(command, env, tmp_path / "train.log"), tmp_path)

    return go


def _follow(process: ProcessFamily, folder: Path) -> Ended:
    deadline = time.monotonic() + LIMIT_S

    def look() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError((folder / "train.log").read_text(errors="replace")[-6000:])

    try:
        status = process.follow(look)
        ended = time.time()
        left = process.settle()
    except BaseException:
        process.end()
        raise
    moment, pid = (folder / "moment").read_text().split()
    log = (folder / "train.log").read_text(errors="replace")
    files = (folder / "out" / "watchdog").glob("*/*.txt")
    found = Ended(status, ended - float(moment), int(pid), left, log, {file.name: file.read_text() for file in files})
    lines = "\n".join(line for line in log.splitlines() if "watchdog" in line.lower())
    sys.stdout.write(
        f"\nMEASURED status {status}, {found.seconds:.0f} s, left {left}, {sorted(found.stacks)}\n{lines}\n"
    )
    return found


def problems(folder: Path) -> None:
    """Problems of the demo task, as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from verl_ext.toy import task

    for split, count in (("train", 64), ("validation", 16)):
        rows = [task.row(problem, index) for index, problem in enumerate(task.problems(split, count, seed=0))]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


def reward(function: str) -> list[str]:
    """The probe of rewards would end such a run before its start, or wait for it."""
    return [f"{REWARD}.path={HERE}/faulty_reward.py", f"{REWARD}.name={function}", "+verl_ext.reward_probe=off"]


def test_a_killed_agent_loop_worker_ends_the_run(run: Run) -> None:
    """Upstream polls the replay buffer for ever: what the worker was doing stays 'running'."""
    ended = run("agent")
    assert ended.status != 0
    assert "verl_ext watchdog: the Ray actor AgentLoopWorkerTQ" in ended.log, ended.tail()
    assert f"(pid {ended.pid}, " in ended.log
    assert "died in phase 'gen' of step 2, and verl did not end the run within 20 s" in ended.log
    assert "WatchdogError" in ended.log
    assert ended.seconds < 20 + 30
    assert ended.left == 0


def test_reward_code_that_never_returns_ends_the_run(run: Run) -> None:
    ended = run("sleep", *reward("sleeps_for_ever"), "+verl_ext.watchdog.limit_s=30")
    assert ended.status != 0
    assert "WatchdogError" in ended.log, ended.tail()
    assert "phase 'gen' of step 1 has made no progress" in ended.log
    (stack,) = [text for name, text in ended.stacks.items() if name.startswith("reward_loop_worker_0")][:1]
    assert "sleeps_for_ever" in stack
    assert ended.left == 0


def test_reward_code_that_always_fails_is_not_tried_for_ever(run: Run) -> None:
    """Upstream replaces the groups that failed without end. The guard that would be first is set out of reach."""
    own = ["trainer.v1.sampler.sync_refill_failed_groups=True", "+verl_ext.guards.failed_groups=1000"]
    ended = run("raise", *reward("always_raises"), *own)
    assert ended.status != 0
    assert "WatchdogError" in ended.log, ended.tail()
    assert "groups of responses have failed and been replaced, and none was kept" in ended.log
    assert "the grader is broken, as asked" in ended.log
    assert ended.left == 0


def test_a_worker_of_vllm_killed_in_a_weight_sync_that_nobody_guards_ends_the_run(run: Run) -> None:
    """As on a GPU, where the sender waits for an answer without a limit; Ray sees no death, the server lives."""
    ended = run("sync")
    assert ended.status != 0
    assert f"vLLM's process VLLM::Worker (pid {ended.pid}, " in ended.log, ended.tail()
    assert "died in phase 'update_weights' of step 1" in ended.log
    assert ended.seconds < 60
    assert ended.left == 0

"""`verl-ext submit` as a person types it, with verl's trainer: killed after a checkpoint, started again, resumed."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cluster.submission.head import ray_head, shell
from tests.e2e import trainer
from verl_ext.process import ProcessFamily
from verl_ext.run_report.console_log import read_step
from verl_ext.toy import models, task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800, func_only=True)]

LIMIT_S = 900.0
STEPS = 4
KEY = "0123456789abcdef"
PROGRAM = "from verl_ext.cli import app; app()"

REWARD = """
import json, os, pathlib

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    names = ("VERL_EXT_DATA", "SOME_KEY", "VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES")
    seen = {"environment": {name: os.environ.get(name) for name in names}, "files": sorted(os.listdir())}
    pathlib.Path(os.environ["VERL_EXT_DATA"], "seen.json").write_text(json.dumps(seen))
    return float(len(solution_str) % 2)
"""


def write_data(folder: Path) -> None:
    for split in ("train", "validation"):
        rows = [task.row(problem, index) for index, problem in enumerate(task.problems(split, 16, seed=0))]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


def write_code(folder: Path) -> Path:
    """A project: a reward function, and beside it what must not travel."""
    (folder / "checkpoints" / "global_step_1").mkdir(parents=True)
    (folder / "checkpoints" / "global_step_1" / "model.pt").write_bytes(bytes(2**20))
    (folder / "weights.safetensors").write_bytes(bytes(2**20))
    (folder / "train.parquet").write_text("data")
    (folder / ".env").write_text("WANDB_API_KEY=secret")
    (folder / "reward.py").write_text(REWARD)
    return folder


def arguments(folder: Path) -> list[str]:
    model = models.build_untrained("tiny_dense", True, folder / "model", seed=0)
    return [
        *trainer.overrides(model, folder, STEPS, algo="grpo"),
        "reward.custom_reward_function.path=reward.py", "trainer.logger=[console]", "trainer.save_freq=1",
        f"trainer.default_local_dir={folder}/run",
    ]  # fmt: skip


def saved(folder: Path) -> int:
    """The last whole checkpoint, as verl's tracker names it."""
    tracker = folder / "run" / "latest_checkpointed_iteration.txt"
    return int(tracker.read_text() or 0) if tracker.is_file() else 0


def drivers(folder: Path) -> list[psutil.Process]:
    """The job's own processes: verl's entry point with this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "verl.trainer.main_ppo" in line and str(folder / "run") in line and PROGRAM not in line:
            found.append(process)
    return found


def until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-6000:]
        time.sleep(0.2)


def test_a_training_that_is_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    write_data(tmp_path)
    log = tmp_path / "submit.log"
    with ray_head(cpus=24, gpus=1) as address:
        command = [
            sys.executable, "-c", PROGRAM, "submit", *arguments(tmp_path), "--address", address,
            "--code", str(write_code(tmp_path / "code")), "--env", "SOME_KEY", "--max-restarts", "1",
        ]  # fmt: skip
        env = shell(SOME_KEY=KEY, VERL_EXT_DATA=str(tmp_path), HF_HUB_OFFLINE="1")
        submitter = ProcessFamily(command, env, log)
        try:
            until(lambda: saved(tmp_path) > 0 or submitter.poll() is not None, log)
            assert submitter.poll() is None, log.read_text()[-6000:]
            for process in drivers(tmp_path):
                process.send_signal(signal.SIGKILL)
            killed_at, at = time.monotonic(), saved(tmp_path)
            until(lambda: submitter.poll() is not None, log)
        finally:
            submitter.end()
    said = log.read_text()
    print(f"killed after step {at}; ended {time.monotonic() - killed_at:.0f} s later")
    assert submitter.poll() == 0, said[-6000:]
    assert "exit code 137" in said
    assert "restart 1 of 1 in 10 s: its process was ended by SIGKILL" in said
    before, after = said.split("restart 1 of 1", 1)
    assert steps(before)[:at] == list(range(1, at + 1))
    # The second attempt begins where a checkpoint ended, and not at the beginning. It may be a later one: Ray takes a
    # moment to end the actors of a driver that was killed.
    first = steps(after)[0]
    assert first > at
    assert steps(after) == list(range(first, STEPS + 1))
    assert saved(tmp_path) == STEPS
    assert KEY not in said
    assert "code: 1 files, 0.0 MiB" in said
    seen = json.loads((tmp_path / "seen.json").read_text())
    # Hydra writes its own folder there.
    assert seen["files"] == ["outputs", "reward.py"]
    assert seen["environment"] == {
        "VERL_EXT_DATA": str(tmp_path),
        "SOME_KEY": KEY,
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "verl_ext.bridge.entry",
    }


def steps(log: str) -> list[int]:
    return [record.step for line in log.splitlines() if (record := read_step(line))]

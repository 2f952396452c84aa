"""Jobs on a real Ray head with its job server; a small script stands for the trainer."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.cluster.submission.head import ray_head
from verl_ext.cluster.submission import client
from verl_ext.cluster.submission.job import Job, Request, prepare
from verl_ext.cluster.submission.supervise import Supervisor

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600, func_only=True)]

KEY = "0123456789abcdef"

TRAINER = """
import os, pathlib, signal, sys

what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
print("files", sorted(os.listdir()))
print("driver", os.environ["SOME_KEY"], os.environ["PYTHONHASHSEED"])
if what == "succeeds":
    import ray

    # verl names this variable too: without the merge Ray would refuse.
    ray.init(runtime_env={"env_vars": {"PYTHONHASHSEED": "0"}})
    names = ("PYTHONHASHSEED", "VERL_EXT_DATA", "VERL_USE_EXTERNAL_MODULES")
    print("worker", ray.get(ray.remote(lambda: [os.environ[name] for name in names]).remote()))
tracker = folder / "latest_checkpointed_iteration.txt"
start = int(tracker.read_text()) if tracker.exists() else 0
if start:
    print(f"Resuming from {folder}/global_step_{start}, setting global step to {start}")
for step in range(start + 1, 5):
    print(f"step:{step} - critic/rewards/mean:{step / 10} - timing_s/step:0.5")
    tracker.write_text(str(step))
    if what == "dies" and (start, step) == (0, 2):
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
sys.exit(3 if what == "fails" else 0)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The job server of a Ray head that lives as long as this file's tests."""
    with ray_head(cpus=2, gpus=0) as found:
        yield found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    code = folder / "code"
    code.mkdir()
    (code / "trainer.py").write_text(TRAINER)
    (code / "train.parquet").write_text("data are not sent")
    arguments = [
        "algo=grpo", "backend=cpu", "model=tiny_dense", "experiment=demo", "actor_rollout_ref.model.path=/m",
        "data.train_files=/t.parquet", "data.val_files=/v.parquet", f"trainer.default_local_dir={folder}",
        "trainer.total_training_steps=4",
    ]  # fmt: skip
    request = Request(arguments, ["SOME_KEY"], code, "stand-in", max_restarts=2, entrypoint=["false"])
    shell = {"SOME_KEY": KEY, "PYTHONHASHSEED": "0", "VERL_EXT_DATA": "/shared/data"}
    found = prepare(request, shell)
    assert found.faults == []
    assert found.job is not None
    return found.job


def supervisor(job: Job, address: str, what: str, folder: Path) -> tuple[Supervisor, list[str], io.StringIO]:
    command = (sys.executable, "-u", "trainer.py", what, str(folder))
    lines: list[str] = []
    said = io.StringIO()
    console = Console(file=said, soft_wrap=True, highlight=False, markup=False)
    made = dataclasses.replace(job, command=command, checkpoints=str(folder))
    return Supervisor(made, client.connect(address), address, console, lines.append, delay=0.0), lines, said


def steps(lines: list[str]) -> list[int]:
    return [int(line.split()[0].removeprefix("step:")) for line in lines if line.startswith("step:")]


def test_a_job_that_succeeds(prepared: Job, address: str, tmp_path: Path) -> None:
    made, lines, said = supervisor(prepared, address, "succeeds", tmp_path)
    assert made.run() == 0
    assert "files ['trainer.py']" in lines
    assert "driver *** 0" in lines
    assert any("worker ['0', '/shared/data', 'verl_ext.bridge.entry']" in line for line in lines)
    assert steps(lines) == [1, 2, 3, 4]
    assert "step 4/4  reward 0.400  0.5 s a step  0s left" in said.getvalue()
    assert KEY not in said.getvalue() + "".join(lines)


def test_the_exit_code_is_passed_on(prepared: Job, address: str, tmp_path: Path) -> None:
    made, lines, said = supervisor(prepared, address, "fails", tmp_path)
    assert made.run() == 3
    assert steps(lines) == [1, 2, 3, 4]
    assert "FAILED, exit code 3, after step 4" in said.getvalue()
    assert "not restarted" in said.getvalue()


def test_a_job_that_is_killed_is_started_again_and_goes_on(prepared: Job, address: str, tmp_path: Path) -> None:
    made, lines, said = supervisor(prepared, address, "dies", tmp_path)
    assert made.run() == 0
    assert steps(lines) == [1, 2, 3, 4]
    assert "exit code 137, after step 2" in said.getvalue()
    assert "restart 1 of 2" in said.getvalue()
    assert any("setting global step to 2" in line for line in lines)


def test_a_detached_job_runs_by_itself(prepared: Job, address: str, tmp_path: Path) -> None:
    made, lines, said = supervisor(prepared, address, "succeeds", tmp_path)
    assert made.detached() == 0
    assert lines == []
    server: Any = client.connect(address)
    identity = said.getvalue().split()[1]
    assert client.rivals(server, str(tmp_path)) == [identity]
    assert client.LogReader(server, identity, lines.append).follow().exit_code == 0
    assert steps(lines) == [1, 2, 3, 4]
    assert client.rivals(server, str(tmp_path)) == []
    assert KEY in "".join(lines)  # the server gives what the job wrote; only the one who named the key can mask it

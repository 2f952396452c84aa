"""Jobs on a real Ray head with its job server; a small script stands for the trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.e2e.trainer import one_at_a_time
from verl_ext.cluster.submission import client
from verl_ext.cluster.submission.job import Job, Request, prepare
from verl_ext.cluster.submission.supervise import Supervisor
from verl_ext.process import ProcessFamily

# Never run so far; by hand until it has been.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

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


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The job server of a Ray head that lives as long as this file's tests."""
    # Not pytest's folder: the names of Ray's sockets have to fit into 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="verl-ext-ray-"))
    names = (
        "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port",
        "metrics-export-port", "runtime-env-agent-port", "node-manager-port", "object-manager-port",
    )  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--temp-dir={folder}", "--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000",
        "--include-dashboard=true", *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "SOME_KEY", "PYTHONHASHSEED")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    with one_at_a_time():
        head = ProcessFamily(command, {**env, "RAY_USAGE_STATS_ENABLED": "0"}, folder / "head.log")
        try:
            yield reached(f"http://127.0.0.1:{ports['dashboard-port']}", head, folder / "head.log")
        finally:
            head.end()
            shutil.rmtree(folder)


def reached(address: str, head: ProcessFamily, log: Path) -> str:
    deadline = time.monotonic() + 180
    while True:
        head.note_family()
        try:
            client.connect(address)
        except ConnectionError:
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        else:
            return address


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

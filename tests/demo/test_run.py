"""The runner with a stand-in for the trainer: success, failure, interruption, and nothing left behind."""

from __future__ import annotations

import io
import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from verl_ext.demo.run import Options, run_demo, train
from verl_ext.live.ending import explain
from verl_ext.live.progress import RunState

# Like a Ray daemon: in a session of its own, so that no signal to the trainer's group reaches it.
SPAWN = """
import json, os, pathlib, subprocess, sys, time
daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path("{pids}").write_text(f"{{os.getpid()}} {{daemon.pid}}")
metrics = open(os.environ["VERL_FILE_LOGGER_PATH"], "w", buffering=1)
metrics.write(json.dumps({{"step": 1, "data": {{"critic/rewards/mean": 0.5}}}}) + "\\n")
print("platform", os.environ["VERL_PLATFORM"], flush=True)
"""


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    return RunState(tmp_path / "train.log", tmp_path / "metrics.jsonl", total=1, started=time.monotonic())


def trainer(tmp_path: Path, ending: str) -> list[str]:
    code = SPAWN.format(pids=tmp_path / "pids") + textwrap.dedent(ending)
    return [sys.executable, "-c", code]


def assert_gone(tmp_path: Path) -> None:
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        gone = not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert gone, f"process {pid} is left behind"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl_ext.process._FAMILY_SECONDS", 0.1)
    monkeypatch.setattr("verl_ext.process._POLL_SECONDS", 0.05)
    monkeypatch.setattr("verl_ext.process.ProcessFamily.settle.__defaults__", (1.0,))


def test_a_run_reads_the_metrics_and_leaves_no_daemon(tmp_path: Path, state: RunState) -> None:
    # Longer than the interval at which the family is noted: what comes and leaves in between is not seen.
    status = train(trainer(tmp_path, "time.sleep(3)"), state, Console(file=io.StringIO()))
    assert status == 0
    assert [record.step for record in state.records] == [1]
    assert "platform cpu" in state.log.read_text()
    assert_gone(tmp_path)


def test_a_failure_shows_the_exception_and_the_log(tmp_path: Path, state: RunState) -> None:
    sink = io.StringIO()
    console = Console(file=sink, width=200)
    status = train(trainer(tmp_path, "time.sleep(1); raise ValueError('no such loss')"), state, console)
    assert status == 1
    explain(status, state.log, console)
    assert "ValueError: no such loss" in sink.getvalue()
    assert str(state.log) in sink.getvalue()
    assert_gone(tmp_path)


def test_an_interruption_ends_the_trainer_and_its_daemon(tmp_path: Path, state: RunState) -> None:
    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while not state.records and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    begun = time.monotonic()
    status = train(trainer(tmp_path, "time.sleep(600)"), state, Console(file=io.StringIO()))
    thread.join()
    assert status == 130
    assert time.monotonic() - begun < 30
    assert_gone(tmp_path)


def test_a_trainer_that_ignores_the_request_is_killed(tmp_path: Path, state: RunState) -> None:
    from verl_ext.process import ProcessFamily, child_environment

    ending = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(600)
    """
    env = child_environment({"VERL_FILE_LOGGER_PATH": str(state.metrics), "VERL_PLATFORM": "cpu"})
    process = ProcessFamily(trainer(tmp_path, ending), env, state.log)
    deadline = time.monotonic() + 20
    while "deaf" not in state.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.end(patience=0.5) == 2
    assert process.poll() == -signal.SIGKILL
    assert_gone(tmp_path)


def test_shared_memory_of_a_killed_trainer_is_removed_and_that_of_others_stays(tmp_path: Path, state: RunState) -> None:
    from multiprocessing import shared_memory

    from verl_ext.process import ProcessFamily, child_environment

    other = shared_memory.SharedMemory(create=True, size=4096)
    grip = """
    import mmap
    for name in ("psm_verlexttest", "sem.mp-verlexttest", other):
        file = open(f"/dev/shm/{name}", "a+b")
        file.truncate(4096)
        held = (globals().get("held") or []) + [mmap.mmap(file.fileno(), 4096)]
    pathlib.Path(ready).touch()
    time.sleep(600)
    """
    names = f"other, ready = {other.name!r}, {str(tmp_path / 'ready')!r}\n"
    env = child_environment({"VERL_PLATFORM": "cpu", "VERL_FILE_LOGGER_PATH": str(state.metrics)})
    process = ProcessFamily(trainer(tmp_path, names + textwrap.dedent(grip)), env, state.log)
    try:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None, state.log.read_text()
            time.sleep(0.05)
        assert Path("/dev/shm/psm_verlexttest").exists()
    finally:
        process.end(patience=1.0)
    try:
        assert not Path("/dev/shm/psm_verlexttest").exists()
        assert not Path("/dev/shm/sem.mp-verlexttest").exists()
        assert Path(f"/dev/shm/{other.name}").exists()
    finally:
        other.close()
        other.unlink()


def test_all_faults_of_the_options_are_named_at_once_and_nothing_is_started(tmp_path: Path) -> None:
    sink = io.StringIO()
    options = Options(algo="epso", model="huge", steps=0, out=tmp_path / "out")
    assert run_demo(options, Console(file=sink, width=200)) == 1
    text = sink.getvalue()
    assert "algo=epso is not known; choose one of" in text
    assert "espo" in text.split("choose one of")[1]
    assert "model=huge" in text
    assert "steps=0" in text
    assert not (tmp_path / "out").exists()


def test_runs_that_differ_have_folders_that_differ() -> None:
    variants = [
        Options(),
        Options(algo="gspo"),
        Options(model="tiny_moe"),
        Options(seed=2),
        Options(control=True),
    ]
    assert len({options.folder() for options in variants}) == len(variants)

"""Training in a child process: checkpoints, failures, interruption, and what a killed run leaves behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import tables
from rich.console import Console

from verl_ext.tables.training import MARK, end_leftovers, last_step, leftovers, saved_steps, train
from verl_ext.tables.work import StageError

CONSOLE = Console(file=io.StringIO())


def checkpoint(folder: Path, step: int, whole: bool = True) -> None:
    actor = folder / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True)
    (actor / "model_world_size_1_rank_0.pt").touch()
    if whole:
        (folder / f"global_step_{step}" / "data.pt").touch()


def test_steps_whose_checkpoint_is_whole(tmp_path: Path) -> None:
    for step in (10, 2):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 12, whole=False)
    assert saved_steps(tmp_path) == [2, 10]


def test_the_last_step_is_the_trackers(tmp_path: Path) -> None:
    assert last_step(tmp_path) == 0
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 4, whole=False)
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    tracker.write_text("2")
    assert last_step(tmp_path) == 2


def test_a_tracker_that_was_being_written_is_written_again(tmp_path: Path) -> None:
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    tracker.touch()
    assert last_step(tmp_path) == 0
    assert not tracker.exists()
    checkpoint(tmp_path, 4)
    tracker.touch()
    assert last_step(tmp_path) == 4
    assert tracker.read_text() == "4"


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_logs_of_every_attempt_are_kept(tmp_path: Path) -> None:
    work = tables.job(tmp_path, "one").work
    code = "import os; print('hello', os.environ['OWN'], os.environ['VERL_FILE_LOGGER_PATH'])"
    for attempt in (1, 2):
        train(child(code), work, 2, {"OWN": "x"}, CONSOLE)
        text = (work.logs / f"train.{attempt}.log").read_text()
        assert text == f"hello x {work.logs}/metrics-{attempt}.jsonl\n"


def test_a_failed_trainer_says_why(tmp_path: Path) -> None:
    work = tables.job(tmp_path, "one").work
    with pytest.raises(StageError, match="exit status 1") as caught:
        train(child("raise ValueError('clip range is negative')"), work, 2, {}, CONSOLE)
    assert any("clip range is negative" in line for line in caught.value.details)


DAEMON = """
import pathlib, subprocess, sys, time
daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
pathlib.Path({pids!r}).write_text(str(daemon.pid))
time.sleep(60)
"""


def wait_for(file: Path) -> int:
    deadline = time.monotonic() + 40
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(file.read_text())


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_interrupted_trainer_leaves_no_process(tmp_path: Path) -> None:
    work, pids = tables.job(tmp_path, "one").work, tmp_path / "pids"

    def interrupt() -> None:
        wait_for(pids)
        # Not SIGINT: it does nothing where the tests run in the background of a shell.
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        train(child(DAEMON.format(pids=str(pids))), work, 2, {}, CONSOLE)
    assert ended(wait_for(pids))
    assert leftovers(work) == []


def test_what_a_killed_run_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    work, other = tables.job(tmp_path, "one", 1).work, tables.job(tmp_path, "one", 2).work
    started = []
    for mark in (work.folder, other.folder):
        pids = tmp_path / f"pids-{mark.name}"
        environment = {**os.environ, MARK: str(mark)}
        # The shell between is gone at once: nobody but the mark tells whose processes these are.
        shell = ["sh", "-c", f"{sys.executable} -c '{DAEMON.format(pids=str(pids)).replace(chr(39), chr(34))}' &"]
        subprocess.run(shell, env=environment, check=True)
        started.append(wait_for(pids))
    try:
        assert end_leftovers(work, CONSOLE) == 2
        assert ended(started[0])
        assert not ended(started[1])
        assert end_leftovers(work, CONSOLE) == 0
    finally:
        end_leftovers(other, CONSOLE)

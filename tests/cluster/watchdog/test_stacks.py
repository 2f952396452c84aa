"""Stacks of real processes, by py-spy and by faulthandler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from verl_ext.run.watchdog import stacks

PROGRAM = """
import ctypes, subprocess, sys, threading, time
from verl_ext.run.watchdog import stacks
{register}
def a_thread_of_its_own():
    time.sleep(300)
def waits_here_for_ever():
    threading.Thread(target=a_thread_of_its_own, daemon=True).start()
    print("up", flush=True)
    {wait}
waits_here_for_ever()
"""
SLEEP = "time.sleep(300)"
# Blocked in C, without the interpreter's lock, and deaf to signals that Python would have to handle.
IN_C = "ctypes.CDLL(None).sem_wait(ctypes.create_string_buffer(64))"

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def run(wait: str = SLEEP, registered: bool = True) -> subprocess.Popen:
        program = PROGRAM.format(wait=wait, register="stacks.register()" * registered)
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "up\n"
        time.sleep(0.2)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("wait", [SLEEP, IN_C], ids=["sleep", "in_c"])
def test_faulthandler_writes_every_thread_even_of_a_process_blocked_in_c(start: Start, wait: str) -> None:
    process = start(wait)
    text = stacks.by_faulthandler(process.pid)
    assert "waits_here_for_ever" in text
    assert "a_thread_of_its_own" in text
    assert process.poll() is None, "a dump must not end the process"
    assert stacks.by_faulthandler(process.pid).count("waits_here_for_ever") == 1, "each dump is read once"


def test_a_process_that_has_not_registered_is_not_sent_the_signal(start: Start) -> None:
    process = start(registered=False)
    with pytest.raises(LookupError, match="has not registered"):
        stacks.by_faulthandler(process.pid)
    time.sleep(0.2)
    assert process.poll() is None


def test_py_spy_sees_a_process_that_has_not_registered(start: Start) -> None:
    process = start(registered=False)
    try:
        text = stacks.by_py_spy(process.pid)
    except LookupError as error:
        pytest.skip(f"py-spy: {error}")
    assert "waits_here_for_ever" in text


def test_faulthandler_is_asked_where_py_spy_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> str:
        raise LookupError("not permitted")

    monkeypatch.setattr(stacks, "by_py_spy", refused)
    assert "waits_here_for_ever" in stacks.of_process(start().pid)


def test_py_spy_that_is_refused_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    tool = tmp_path / "py-spy"
    tool.write_text("#!/bin/sh\necho 'Permission Denied: try sudo' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LookupError, match="Permission Denied"):
        stacks.by_py_spy(os.getpid())


def test_where_nothing_can_be_had_it_says_why(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "by_py_spy", stacks.by_faulthandler)
    text = stacks.of_process(start(registered=False).pid)
    assert text.startswith("no stacks: ")
    assert "the process is sleeping" in text
    process = start()
    process.kill()
    process.wait()
    assert "the process is gone" in stacks.of_process(process.pid)


def test_of_processes_includes_children_and_this_process(start: Start) -> None:
    process = start()
    found = stacks.of_processes({process.pid: "worker", os.getpid(): "self"})
    assert "waits_here_for_ever" in found[f"worker-{process.pid}"]
    assert "test_of_processes_includes_children_and_this_process" in found[f"self-{os.getpid()}"]


def test_children_are_named_after_their_parent(start: Start) -> None:
    process = start()
    found = stacks.descendants({os.getpid(): "server"})
    assert found[process.pid].startswith("server-python")


def test_files_are_written_where_it_is_possible(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    folder = stacks.first_writable([blocked / "x", tmp_path / "there"])
    assert folder == tmp_path / "there"
    (path,) = stacks.write(folder / "now", {"a/b:0-7": "text"})
    assert (path.name, path.read_text()) == ("a_b_0-7.txt", "text")
    with pytest.raises(OSError, match="Not a directory"):
        stacks.first_writable([blocked / "x"])


def test_the_signal_is_not_one_that_others_use() -> None:
    assert signal.SIGRTMIN < stacks.SIGNAL < signal.SIGRTMAX

"""The process pool: values, real kills, crashes, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from verl_ext.rewards.pool import ProcessPool

TASK = textwrap.dedent(
    """
    import os, time

    def task(command, argument=None):
        if command == "echo":
            return argument
        if command == "pid":
            return os.getpid()
        if command == "raise":
            raise KeyError(argument)
        if command == "exit":
            os._exit(argument)
        if command == "sleep":
            time.sleep(argument)
        if command == "spin":
            if argument:
                open(argument, "w").close()
            9 ** 9 ** 9  # one C call that holds the interpreter lock for hours
        if command == "allocate":
            return len(bytearray(argument))
    """
)
LONG_S = 60.0
"""A limit that no job here comes near, however slow the machine."""


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def pool(task_file: Path) -> Iterator[ProcessPool]:
    pool = ProcessPool(task_file, "task", workers=1)
    yield pool
    pool.close()


def gone(pid: int, within_s: float = 30.0) -> bool:
    """Whether the process ends within the given time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_one_persistent_process_serves_all_calls(pool: ProcessPool) -> None:
    assert pool.pids == []
    pids = {pool.run("pid", timeout_s=LONG_S).value for _ in range(5)}
    assert pids == set(pool.pids)
    assert len(pids) == 1
    assert pids != {os.getpid()}
    assert pool.run("echo", {"a": [1, None]}, timeout_s=LONG_S).value == {"a": [1, None]}


@pytest.mark.parametrize("job", [("sleep", 1000), ("spin", None)])
def test_overdue_job_is_killed_and_the_worker_replaced(pool: ProcessPool, job: tuple[str, object]) -> None:
    victim = pool.run("pid", timeout_s=LONG_S).value
    result = pool.run(*job, timeout_s=0.2)
    assert (result.status, result.value) == ("timeout", None)
    assert gone(victim, within_s=0.1)
    successor = pool.run("pid", timeout_s=LONG_S)
    assert successor.status == "ok"
    assert successor.value != victim


def test_crash_is_an_error_with_the_exit_status(pool: ProcessPool) -> None:
    result = pool.run("exit", 42, timeout_s=LONG_S)
    assert result.status == "error"
    assert "42" in result.detail
    assert pool.run("echo", 1, timeout_s=LONG_S).value == 1


def test_worker_killed_from_outside_between_jobs_is_replaced(pool: ProcessPool) -> None:
    victim = pool.run("pid", timeout_s=LONG_S).value
    os.kill(victim, signal.SIGKILL)
    assert gone(victim)
    assert pool.run("echo", 2, timeout_s=LONG_S).value == 2


def test_exception_is_an_error_and_keeps_the_worker(pool: ProcessPool) -> None:
    before = pool.run("pid", timeout_s=LONG_S).value
    result = pool.run("raise", "no such thing", timeout_s=LONG_S)
    assert (result.status, result.detail) == ("error", "KeyError: 'no such thing'")
    assert pool.run("pid", timeout_s=LONG_S).value == before


def test_memory_limit_makes_an_error_and_a_new_worker(task_file: Path) -> None:
    pool = ProcessPool(task_file, "task", workers=1, memory_bytes=1 << 30)
    try:
        assert pool.run("allocate", 1 << 20, timeout_s=LONG_S).value == 1 << 20
        before = pool.run("pid", timeout_s=LONG_S).value
        assert pool.run("allocate", 1 << 31, timeout_s=LONG_S).detail.startswith("MemoryError")
        assert pool.run("pid", timeout_s=LONG_S).value not in (None, before)
    finally:
        pool.close()


def test_many_threads_share_few_workers(task_file: Path) -> None:
    pool = ProcessPool(task_file, "task", workers=2)
    try:
        with ThreadPoolExecutor(8) as threads:
            results = threads.map(lambda n: pool.run("echo", n, timeout_s=LONG_S).value, range(200))
            assert list(results) == list(range(200))
        assert len(pool.pids) <= 2
    finally:
        pool.close()


def test_close_ends_a_running_job_and_refuses_new_ones(pool: ProcessPool) -> None:
    pid = pool.run("pid", timeout_s=LONG_S).value
    results = []
    thread = threading.Thread(target=lambda: results.append(pool.run("sleep", 1000, timeout_s=LONG_S)))
    thread.start()
    time.sleep(0.2)
    pool.close()
    thread.join(30)
    assert not thread.is_alive()
    assert results[0].status == "error"
    assert gone(pid)
    with pytest.raises(RuntimeError, match="closed"):
        pool.run("echo", 1, timeout_s=LONG_S)


def test_a_worker_that_cannot_start_is_a_loud_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import a_package_that_nobody_has\n")
    pool = ProcessPool(broken, "task", workers=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a_package_that_nobody_has"):
            pool.run("echo", 1, timeout_s=LONG_S)
    assert pool.pids == []
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ProcessPool(broken, "task", workers=0)


def test_a_forked_copy_may_not_use_the_pool(pool: ProcessPool) -> None:
    pid = pool.run("pid", timeout_s=LONG_S).value
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pool.run("echo", 1, timeout_s=LONG_S)
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        pool.close()
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert b"forked" in os.read(reader, 200)
    assert pool.run("pid", timeout_s=LONG_S).value == pid


PARENT = """
import os, signal, sys, threading
from verl_ext.rewards.pool import ProcessPool
pool = ProcessPool(sys.argv[1], "task", workers=1)
print(pool.run("pid", timeout_s=60).value, flush=True)
if sys.argv[2] == "busy":
    threading.Thread(target=lambda: pool.run("spin", sys.argv[3], timeout_s=1.0), daemon=True).start()
    while not os.path.exists(sys.argv[3]):
        pass
    print("spinning", flush=True)
if sys.argv[2] == "exit":
    sys.exit(0)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["exit", "idle", "busy"])
def test_no_orphans_when_the_parent_ends(task_file: Path, tmp_path: Path, end: str) -> None:
    command = [sys.executable, "-c", PARENT, str(task_file), end, str(tmp_path / "spinning")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        if end == "busy":
            assert parent.stdout.readline() == "spinning\n"
        if end != "exit":
            # No clean-up code of the parent runs: what ends the worker is the closed socket, or the alarm.
            parent.kill()
        parent.wait()
        assert gone(worker)

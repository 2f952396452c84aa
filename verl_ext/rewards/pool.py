"""A pool of worker processes whose jobs can really be stopped.

A verifier may loop for ever, allocate without end, or crash the interpreter. Signal-based time limits work in
main threads only, and verl calls reward functions from threads. Here each job runs in a worker process that
is killed when its time is up, and replaced at the next use; what happened comes back as a value.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Literal

import psutil

_CHILD = Path(__file__).with_name("_child.py")
_GRACE_S = 2.0
"""A worker whose parent died during a job ends itself this long after the job's time was up."""


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        status: ``"ok"``; ``"timeout"`` (killed); ``"error"`` (the function raised, or the process died).
        value: the function's return value if ``"ok"``, else None.
        detail: for people, what went wrong; empty if ``"ok"``.
    """

    status: Literal["ok", "timeout", "error"]
    value: Any = None
    detail: str = ""


_ROUNDS = 100
"""What is being started while the others are killed is found in the next round."""


class _Worker:
    """One worker process and the socket to it."""

    def __init__(self, file: Path, function: str, start_timeout_s: float, memory_bytes: int) -> None:
        self._connection, child = Pipe()
        # One thread per worker: the numerical libraries' own thread pools would only fight for the cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-I", str(_CHILD), str(child.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[child.fileno()], stdin=subprocess.DEVNULL, env=environment)
        child.close()
        setup = {
            "path": [entry for entry in sys.path if entry],
            "file": str(file),
            "function": function,
            "parent": os.getpid(),
            "memory_bytes": memory_bytes,
        }
        try:
            self._connection.send(setup)
            status, detail = self._receive(start_timeout_s)
        except TimeoutError:
            status, detail = "failed", f"not ready after {start_timeout_s:g} s"
        except (EOFError, ConnectionError):
            status, detail = "failed", f"ended with exit status {self.process.wait()}"
        if status != "ready":
            self.kill()
            raise RuntimeError(f"the worker process for {function} in {file.name} cannot start: {detail}")

    def _receive(self, timeout_s: float) -> tuple[Any, Any]:
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        answer: tuple[Any, Any] = self._connection.recv()
        return answer

    def call(self, arguments: tuple[Any, ...], timeout_s: float) -> JobResult:
        try:
            self._connection.send((arguments, timeout_s + _GRACE_S))
            status, value = self._receive(timeout_s)
        except TimeoutError:
            self.kill()
            return JobResult("timeout", detail=f"no answer within {timeout_s:g} s; the worker was killed")
        except (EOFError, ConnectionError):
            return JobResult("error", detail=f"the worker died with exit status {self.process.wait()}")
        if status == "full":
            # What filled the memory may be kept for good: the next job gets a new process.
            self.kill()
        return JobResult("ok", value) if status == "ok" else JobResult("error", detail=value)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """End the process and all that it started; a thread that waits is told by the end of the stream."""
        _end_what_it_started(self.process.pid)
        self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End the process and close the socket; for the thread that holds the worker only."""
        self.stop()
        self._connection.close()


def _end_what_it_started(pid: int) -> None:
    """Kill all that descends from a worker, which is halted and adopts what its children leave behind meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        worker.suspend()
        for _ in range(_ROUNDS):
            living = [process for process in worker.children(recursive=True) if _lives(process)]
            if not living:
                return
            for process in living:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class ProcessPool:
    """A fixed number of lazily started worker processes that run one function.

    Args:
        file: Python file that defines the function; loaded in the workers only.
        function: its name. Arguments and results must be picklable.
        workers: how many processes may run at once; further callers wait their turn.
        start_timeout_s: seconds a worker has for its imports.
        memory_bytes: address space a worker may use, 0 for no limit; beyond it, jobs end with ``"error"``.

    A pool may be used from many threads. A forked copy of the parent must not use it; see `owned`. Workers
    end with the pool (`close`, interpreter exit) and, by themselves, when the parent is killed.
    """

    def __init__(
        self,
        file: str | Path,
        function: str,
        workers: int = 2,
        start_timeout_s: float = 120.0,
        memory_bytes: int = 4 << 30,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._start = (Path(file), function, start_timeout_s, memory_bytes)
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._slots.put(None)
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        atexit.register(self.close)

    @property
    def owned(self) -> bool:
        """Whether this process made the pool and has not closed it."""
        return self._pid == os.getpid() and not self._closed

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        with self._lock:
            return sorted(worker.process.pid for worker in self._workers if worker.alive)

    def run(self, *arguments: Any, timeout_s: float) -> JobResult:
        """Run the function on `arguments` in a worker.

        The time limit covers the job alone, neither the wait for a free worker nor a worker's start.

        Raises:
            RuntimeError: if a worker cannot start (its imports fail), or the pool is closed or forked.
        """
        if not self.owned:
            raise RuntimeError("this process pool is closed, or belongs to the process that forked this one")
        worker = self._slots.get()
        try:
            if worker is None or not worker.alive:
                self._forget(worker)
                worker = None
                worker = self._launch()
            return worker.call(arguments, timeout_s)
        finally:
            self._slots.put(worker)

    def _launch(self) -> _Worker:
        worker = _Worker(*self._start)
        with self._lock:
            self._workers.add(worker)
            closed = self._closed
        if closed:
            self._forget(worker)
            raise RuntimeError("this process pool was closed while a worker started")
        return worker

    def _forget(self, worker: _Worker | None) -> None:
        if worker is not None:
            worker.kill()
            with self._lock:
                self._workers.discard(worker)

    def close(self) -> None:
        """Kill all workers; calling it again, or in a forked copy, does nothing."""
        if not self.owned:
            return
        self._closed = True
        atexit.unregister(self.close)
        with self._lock:
            workers = list(self._workers)
            self._workers.clear()
        for worker in workers:
            worker.stop()

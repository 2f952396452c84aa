"""The program a pool's worker process runs; started by `verl_ext.rewards.pool`, never imported by it.

It is run as an isolated script, so it loads neither this package nor torch, and starts as fast as the task's
own imports allow. Over one socket it gets a set-up message, answers "ready", then answers every job.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_IDLE_CHECK_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36


def _load(file: str, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("verl_ext_pool_task", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered because dataclasses and pickle look modules up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, name)
    return function


def _next(connection: Connection, parent: int) -> Any:
    # The closed socket ends the worker when its parent dies. The check of the parent's id covers a socket
    # that a process forked by the parent keeps open.
    while not connection.poll(_IDLE_CHECK_S):
        if os.getppid() != parent:
            os._exit(0)
    return connection.recv()


def _adopt() -> None:
    """Orphans among this process's descendants become its children (Linux), so that they are found and ended."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _serve(connection: Connection) -> None:
    _adopt()
    setup = connection.recv()
    sys.path[:] = setup["path"]
    if setup["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    # Interrupts are meant for the parent, which then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function = _load(setup["file"], setup["function"])
    except Exception:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("ready", None))
    while True:
        arguments, deadline_s = _next(connection, setup["parent"])
        # The kernel's alarm, with its default action, ends this process even inside a C call that holds the
        # interpreter lock: a worker in an endless computation cannot outlive a parent that was killed.
        signal.setitimer(signal.ITIMER_REAL, deadline_s)
        try:
            answer = ("ok", function(*arguments))
        except MemoryError:
            answer = ("full", "MemoryError: the job needed more than the worker may use")
        except Exception as error:
            answer = ("error", f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


if __name__ == "__main__":
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionError):
        # The parent closed the socket or is gone: the normal end.
        sys.exit(0)

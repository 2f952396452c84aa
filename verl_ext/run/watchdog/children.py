"""In a vLLM server: notice that one of the engine's own processes died.

Ray knows the server only. Its engine and workers are children that can die while the server lives, and during a
weight sync nobody would hear of it: the sender waits for an answer of the worker, and the trainer for the sender.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 1.0


class Children:
    """The processes of an engine, remembered as they appear.

    Args:
        prefix: vLLM gives its processes titles that begin so.
        living: process id -> title and state, of all descendants.
    """

    def __init__(self, prefix: str, living: Callable[[], dict[int, tuple[str, str]]]) -> None:
        self._prefix, self._living = prefix, living
        self._known: dict[int, str] = {}

    def gone(self) -> dict[int, str]:
        """Process id -> title of those that have ended since the last look."""
        living = self._living()
        runs = {pid: title for pid, (title, state) in living.items() if state != "zombie"}
        self._known.update({pid: title for pid, title in runs.items() if title.startswith(self._prefix)})
        ended = {pid: title for pid, title in self._known.items() if pid not in runs}
        for pid in ended:
            del self._known[pid]
        return ended


def descendants() -> dict[int, tuple[str, str]]:
    """Process id -> title and state, of every process that this one has started."""
    import psutil

    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            found[process.pid] = (" ".join(process.cmdline()) or process.name(), process.status())
        except psutil.NoSuchProcess:
            continue
    return found


def watch(server: str, prefix: str) -> None:
    """Report, from a thread of this process, each process of the engine that ends while the server lives."""
    children = Children(prefix, descendants)

    def run() -> None:
        while True:
            for pid, title in children.gone().items():
                _tell(server, pid, title)
            time.sleep(LOOK_S)

    threading.Thread(target=run, daemon=True, name="verl_ext-children").start()


def _tell(server: str, pid: int, title: str) -> None:
    import ray

    from verl_ext.run.watchdog import actors

    address = ray.util.get_node_ip_address()
    who = f"vLLM's process {title.split()[0]} (pid {pid}, node {address})"
    actors.report(f"{address}:{pid}", who, f"it ended while its server {server} was running")

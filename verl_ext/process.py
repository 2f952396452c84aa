"""A child process, and its end together with everything that it started."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

# Shared memory and semaphores that vLLM and verl's weight sync create and, when killed, leave behind.
SEGMENT = re.compile(r"/dev/shm/(?:psm_|verl_weights_|sem\.mp-)\w+")
SOCKETS = "VLLM_RPC_BASE_PATH"
"""vLLM's variable for the folder of its sockets; the system's temporary one by default."""

_POLL_SECONDS = 0.3
_FAMILY_SECONDS = 2.0


class ProcessFamily:
    """A command in its own process group, whose descendants are remembered as they appear.

    Ray's daemons and workers leave the group, and when their parent dies they are nobody's children any more;
    so the family is noted while it can be seen (`note_family`, called now and then) and ended by process id.
    A process is known by its id and its time of creation: an id that now belongs to another is left alone.
    Shared memory that the family had mapped is noted as well, and removed at the end if nobody maps it any more.
    vLLM's sockets, which it leaves behind when verl ends it, are in a folder of their own, removed with the family.
    Output is added to the log: what an earlier process wrote there stays.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._sockets = Path(tempfile.mkdtemp(prefix="verl_ext-"))  # short: a socket's path has at most 107 bytes
        try:
            with log.open("ab") as sink:
                self._process = subprocess.Popen(
                    command, env={SOCKETS: str(self._sockets), **env}, stdin=subprocess.DEVNULL, stdout=sink,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except OSError:  # nothing has started that could be ended later
            self._sockets.rmdir()
            raise
        self._family: set[psutil.Process] = set()
        self._segments: set[str] = set()

    def poll(self) -> int | None:
        """The exit status, or None while the command runs."""
        return self._process.poll()

    def follow(self, look: Callable[[], None]) -> int:
        """Wait for the command, noting its family now and then; the exit status.

        Args:
            look: called several times a second, the last time after the command has ended.
        """
        noted = time.monotonic() - _FAMILY_SECONDS
        while True:
            status = self.poll()
            look()
            if status is not None:
                return status
            if time.monotonic() - noted > _FAMILY_SECONDS:
                self.note_family()
                noted = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def note_family(self) -> None:
        """Remember the descendants that live now."""
        roots = [psutil.Process(self._process.pid)] if self.poll() is None else []
        for process in [*roots, *self._family]:
            try:
                self._family.update(process.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
        self._segments |= mapped_segments(process.pid for process in [*roots, *self._family])

    def end(self, patience: float = 10.0) -> int:
        """End what still runs of the command and its family; return how many processes that were.

        First a request (SIGTERM) to all, then, after `patience` seconds, SIGKILL to those that stayed.
        """
        self.note_family()
        alive = self._signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        while self._living() and time.monotonic() < deadline:
            self.note_family()
            time.sleep(0.1)
        self._signal(signal.SIGKILL)
        self._process.wait(timeout=patience)
        self._remove_traces()
        return alive

    def settle(self, patience: float = 15.0) -> int:
        """After a normal exit: give the daemons time to leave by themselves, then end the rest."""
        deadline = time.monotonic() + patience
        while self._living() and time.monotonic() < deadline:
            time.sleep(0.2)
        if self._living():
            return self.end()
        self._remove_traces()
        return 0

    def _remove_traces(self) -> None:
        shutil.rmtree(self._sockets, ignore_errors=True)
        for path in self._segments - mapped_segments(psutil.pids()):
            Path(path).unlink(missing_ok=True)

    def _living(self) -> list[psutil.Process]:
        living = [process for process in self._family if _runs(process)]
        return living if self.poll() is not None else [psutil.Process(self._process.pid), *living]

    def _signal(self, number: signal.Signals) -> int:
        living = self._living()
        for process in living:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        return len(living)


def run_family(
    command: Sequence[str],
    extra: Mapping[str, str],
    log: Path,
    follow: Callable[[ProcessFamily], int],
    announce: Callable[[], None] = lambda: None,
) -> int:
    """Run a command to its end; whatever happens, no process of it is left behind.

    Args:
        command: the whole command line.
        extra: environment on top of this process's.
        log: where its output goes.
        follow: watches the process and returns its exit status.
        announce: called on an interruption, before the processes are ended, which takes seconds.

    Raises:
        KeyboardInterrupt: on SIGINT, SIGTERM and SIGHUP, after all processes have ended.
    """
    with stop_signals_raise():
        process = ProcessFamily(command, child_environment(extra), log)
        try:
            status = follow(process)
            process.settle()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                announce()
            process.end()
            raise
    return status


def mapped_segments(pids: Iterable[int]) -> set[str]:
    """Shared-memory files of vLLM and verl that these processes have mapped; processes that are gone have none."""
    found: set[str] = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        found.update(SEGMENT.findall(maps))
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `KeyboardInterrupt`, so that clean-up runs as it does for Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `extra` on top; output unbuffered, so that the log is current."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **extra}

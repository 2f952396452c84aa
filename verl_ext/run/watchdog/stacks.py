"""The Python stacks of other processes: by py-spy where it is there and may look, otherwise by faulthandler.

faulthandler writes from inside: the process has to have asked for it beforehand (`register`), and a signal makes it
write, even while its main thread is blocked in C. It writes into memory that has a name but no file, which whoever
sent the signal reads through /proc, so that nothing has to be cleaned up.
"""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MEMORY = "verl_ext-stacks"
# A real-time signal, which neither Ray nor torch, vLLM or Python use.
SIGNAL = getattr(signal, "SIGRTMIN", 34) + 7
PATIENCE_S = 5.0
AT_ONCE = 8

_file: int | None = None


def register() -> None:
    """Let this process write its stacks when asked to. Harmless when called again; nothing where Linux is absent."""
    global _file
    if _file is None and hasattr(os, "memfd_create"):
        _file = os.memfd_create(MEMORY)
        faulthandler.register(SIGNAL, file=_file, all_threads=True, chain=False)


def of_processes(labels: Mapping[int, str]) -> dict[str, str]:
    """Stacks of processes of this machine and of all that they started.

    Args:
        labels: process id -> what to call it.

    Returns:
        Name of a process, with its id -> its stacks, or why there are none.
    """
    everyone = {**descendants(labels), **labels}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(of_process, everyone)
        return {f"{name}-{pid}": text for (pid, name), text in zip(everyone.items(), found, strict=True)}


def descendants(labels: Mapping[int, str]) -> dict[int, str]:
    """The processes that these have started -> a name made of their parent's and their own."""
    import psutil

    found: dict[int, str] = {}
    for pid, label in labels.items():
        try:
            for child in psutil.Process(pid).children(recursive=True):
                found[child.pid] = f"{label}-{re.sub(r'[^A-Za-z0-9_]+', '_', child.name())}"
        except psutil.NoSuchProcess:
            continue
    return found


def of_process(pid: int) -> str:
    """The stacks of one process of this machine, or why there are none."""
    if pid == os.getpid():
        return _own()
    why = []
    for look in (by_py_spy, by_faulthandler):
        try:
            return look(pid)
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            why.append(f"{look.__name__}: {str(error).strip() or type(error).__name__}")
    return "no stacks: " + "; ".join([*why, f"the process is {state(pid)}"]) + "\n"


def _own() -> str:
    """py-spy may look at its own children at most; a process needs no permission to look at itself."""
    fd = os.memfd_create(MEMORY)
    try:
        faulthandler.dump_traceback(file=fd, all_threads=True)
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")
    finally:
        os.close(fd)


def by_py_spy(pid: int) -> str:
    """The stacks as py-spy prints them.

    Raises:
        LookupError: py-spy is not installed, or may not look at the process.
    """
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        raise LookupError("not installed")
    done = subprocess.run(
        [program, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        raise LookupError((done.stderr.strip().splitlines() or ["it failed without a word"])[-1])
    return done.stdout


def by_faulthandler(pid: int) -> str:
    """The stacks as the process itself writes them when sent the signal.

    Raises:
        LookupError: the process has not registered, or did not answer.
    """
    # A process that does not expect this signal would be ended by it.
    memory = _memory(pid)
    if memory is None or not _catches(pid):
        raise LookupError("the process has not registered (the plugin is not installed in it)")
    before = memory.stat().st_size
    os.kill(pid, SIGNAL)
    size, deadline = before, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(0.1)
        previous, size = size, memory.stat().st_size
        if size > before and size == previous:
            with memory.open("rb") as file:
                file.seek(before)
                return file.read().decode(errors="replace")
    raise LookupError(f"no answer within {PATIENCE_S:g} s")


def _memory(pid: int) -> Path | None:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(link).startswith(f"/memfd:{MEMORY}"):
                return link
        except FileNotFoundError:
            continue
    return None


def _catches(pid: int) -> bool:
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (SIGNAL - 1) & 1)


def state(pid: int) -> str:
    """In words: running, sleeping, a zombie, gone."""
    import psutil

    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return "gone"


def write(folder: Path, stacks: Mapping[str, str]) -> list[Path]:
    """One file each; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in stacks.items():
        paths.append(folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.txt")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def first_writable(folders: Iterable[Path]) -> Path:
    """The first of these folders in which a file can be written: the disk may be what the run hangs on.

    Raises:
        OSError: none of them can be written to.
    """
    faults = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.write_text("x" * 65536, encoding="utf-8")
            probe.unlink()
        except OSError as error:
            faults.append(str(error))
            continue
        return folder
    raise OSError("; ".join(faults))

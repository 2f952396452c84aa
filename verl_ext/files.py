"""Files that are whole or absent, and folders that one process has at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under; the file gets its own name when the body ends, and is on the disk then.

    A reader sees the old content or all of the new one, whenever the machine stops or the disk is full.

    Raises:
        OSError: it could not be written; the old content is still there, and nothing else is left.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with whole(target) as beside:
    ...     _ = beside.write_text("one")
    ...     target.exists()
    False
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('one', 1)
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        _reach_the_disk(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _reach_the_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text, `whole`."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON, `whole`.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def _reach_the_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock file; the kernel lets go of it when its holder dies, so that a killed process blocks nobody.

    Args:
        path: of the lock file; its folder is made.
        wait: for another holder to end.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    # Not at the top: a run's workers write files and lock nothing.
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise BlockingIOError(f"{path} is held by another process") from None
    try:
        yield
    finally:
        lock.release()

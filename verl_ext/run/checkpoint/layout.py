"""Where things are in a folder of checkpoints, and its tracker file."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "verl_ext.manifest.json"
STATE = "verl_ext.json"
# Present while a checkpoint is being written: a folder that has it is not a checkpoint.
UNFINISHED = "verl_ext.unfinished"
TRACKER = "latest_checkpointed_iteration.txt"
PREFIX = "global_step_"

_SHARD = re.compile(r"_world_size_(\d+)_rank_(\d+)\.pt$")


def step_of(folder: Path) -> int:
    """Example: `step_of(Path("/c/global_step_12"))` is 12."""
    return int(folder.name.removeprefix(PREFIX))


def is_checkpoint_name(name: str) -> bool:
    """Example: `is_checkpoint_name("global_step_12")` is True, `is_checkpoint_name("actor")` is False."""
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).isdigit()


def steps(root: Path) -> list[Path]:
    """The folders of a run's checkpoints, newest step first."""
    return sorted(
        (path for path in root.glob(f"{PREFIX}*") if is_checkpoint_name(path.name)), key=step_of, reverse=True
    )


def shard(path: str) -> tuple[int, int] | None:
    """(World size, rank) of an FSDP shard, None for other files.

    Example:
        >>> shard("actor/optim_world_size_8_rank_3.pt"), shard("data.pt")
        ((8, 3), None)
    """
    found = _SHARD.search(path)
    return (int(found[1]), int(found[2])) if found else None


def world_sizes(paths: Iterable[str]) -> dict[str, set[int]]:
    """Role (actor, critic) -> the world sizes of the FSDP shards among the files of a checkpoint.

    Example:
        >>> world_sizes(["actor/model_world_size_2_rank_0.pt", "data.pt"])
        {'actor': {2}}
    """
    found: dict[str, set[int]] = {}
    for path in paths:
        named = shard(path)
        if named:
            found.setdefault(path.split("/")[0], set()).add(named[0])
    return found


def files(folder: Path) -> dict[str, int]:
    """Path relative to the folder -> bytes of each file in it, ours that tell of the state of the folder left out."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, UNFINISHED)
    }


def write_atomically(path: Path, text: str) -> None:
    """The file has its old content or all of the new one, whenever the machine stops or the disk is full.

    Raises:
        OSError: the old content is still there, and nothing else is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_atomically` of JSON."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def tracked(root: Path) -> int | None:
    """The step that the tracker file names; None where there is no such file.

    Raises:
        ValueError: it does not hold a step, as after a full disk.
    """
    tracker = root / TRACKER
    if not tracker.exists():
        return None
    text = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if not text.isdigit():
        raise ValueError(f"{tracker} holds {text!r} instead of a step")
    return int(text)


def begin(folder: Path) -> None:
    """Make the folder of a new checkpoint, marked as unfinished; what an earlier attempt of ours left goes."""
    if (folder / UNFINISHED).exists() or (folder / MANIFEST).exists():
        discard(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).write_text(f"{os.getpid()}\n", encoding="utf-8")


def discard(folder: Path) -> None:
    """Remove a checkpoint; the mark that it is none goes last, in case that the removal is interrupted."""
    if not folder.exists():
        return
    (folder / UNFINISHED).touch()
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != UNFINISHED:
            # A rank that still writes may put a file back: the mark then stays with it.
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if [path.name for path in folder.iterdir()] == [UNFINISHED]:
        shutil.rmtree(folder)

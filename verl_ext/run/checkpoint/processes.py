"""What each training process does for a checkpoint, on its own node, when the trainer asks for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verl_ext.run.checkpoint import manifest, space
from verl_ext.run.checkpoint.errors import Fault


def answer(what: str, rank: int, engine: Any, *arguments: Any) -> Any:
    """Dispatch: the trainer sends the same to every rank."""
    return TASKS[what](rank, engine, *arguments)


def room(rank: int, engine: Any, folder: str, probe: str) -> dict[str, Any]:
    """How much this process is about to write, and how much the disk can take.

    Returns:
        `node`, `shared` (the trainer's `probe` is visible), `needed` and `free` in bytes, `disk` in words.
    """
    path = Path(folder)
    return {
        "node": socket.gethostname(),
        "shared": (path / probe).exists(),
        "needed": space.tensor_bytes(engine),
        "free": space.free(path),
        "disk": space.disk(path),
    }


def look(rank: int, engine: Any, folder: str, probe: str) -> dict[str, Any]:
    """The folder as this process sees it."""
    return manifest.look(Path(folder), probe)


def seal(rank: int, engine: Any, folder: str, jobs: Sequence[Sequence[str]], digest: bool) -> list[manifest.Entry]:
    """Entries of the files that are this rank's share."""
    return manifest.seal(Path(folder), jobs[rank], digest)


def check(rank: int, engine: Any, folder: str, jobs: Sequence[Sequence[manifest.Entry]]) -> list[Fault]:
    """What is wrong with the files that are this rank's share."""
    return manifest.check(Path(folder), jobs[rank], content=True, node=socket.gethostname())


TASKS: dict[str, Callable[..., Any]] = {"room": room, "look": look, "seal": seal, "check": check}

"""The list of every file of a checkpoint, written last: a checkpoint that has it is complete.

SHA-256 rather than a checksum of 32 bits because it is what people can check by hand (`sha256sum`), and because it is
no slower than the disk: each process reads its own shards, right after it has written them, all processes at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from verl_ext.run.checkpoint import layout
from verl_ext.run.checkpoint.errors import Fault

VERSION = 1
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        path: relative to the folder of the checkpoint.
        size: bytes.
        sha256: in hexadecimal, or empty where only the size is kept.
        ranks: the processes on whose node the file is; None for a file that the trainer's process sees as well.
    """

    path: str
    size: int
    sha256: str = ""
    ranks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Manifest:
    """All files of a checkpoint.

    Attributes:
        step: training steps done.
        world_size: role -> number of processes that wrote its shards.
        entries: the files.
        made_with: versions of verl and of the plugin.
        identity: of the run, see `verl_ext.checkpoint.identity`; None in lists that an earlier plugin wrote.
    """

    step: int
    world_size: dict[str, int]
    entries: tuple[Entry, ...]
    made_with: dict[str, str]
    identity: Mapping[str, Any] | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    def write(self, folder: Path) -> None:
        """Into the checkpoint's folder, atomically; then the folder is no longer marked as unfinished."""
        layout.write_json(folder / layout.MANIFEST, {"version": VERSION, **asdict(self)})
        (folder / layout.UNFINISHED).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Of a checkpoint.

        Raises:
            ValueError: it cannot be read as one; the message says why.
        """
        try:
            found = json.loads((folder / layout.MANIFEST).read_text(encoding="utf-8"))
            if found["version"] != VERSION:
                raise ValueError(f"has version {found['version']}, this verl_ext reads version {VERSION}")
            entries = tuple(
                Entry(e["path"], e["size"], e["sha256"], None if e["ranks"] is None else tuple(e["ranks"]))
                for e in found["entries"]
            )
            return cls(found["step"], found["world_size"], entries, found["made_with"], found.get("identity"))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"cannot be read: {type(error).__name__}: {error}") from error


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):  # hashlib.file_digest came with Python 3.11
            found.update(block)
    return found.hexdigest()


def seal(folder: Path, paths: Iterable[str], digest: bool) -> list[Entry]:
    """Entries of files that were just written, which are on the disk itself when this returns."""
    found = []
    for path in paths:
        with (folder / path).open("rb") as file:
            # Delayed errors of network file systems and quotas come out here, while the older checkpoint is intact.
            os.fsync(file.fileno())
        found.append(Entry(path, (folder / path).stat().st_size, sha256(folder / path) if digest else ""))
    return found


def check(folder: Path, entries: Iterable[Entry], content: bool, node: str = "") -> list[Fault]:
    """What is wrong with files of a checkpoint, as seen from this machine.

    Args:
        folder: of the checkpoint.
        entries: what to look at.
        content: compare the digests as well, which reads every byte.
        node: named in the faults.
    """
    found = []
    for entry in entries:
        path = folder / entry.path
        if not path.is_file():
            found.append(Fault(entry.path, "is missing", node))
        elif (size := path.stat().st_size) != entry.size:
            found.append(Fault(entry.path, f"has {size} bytes instead of {entry.size}", node))
        elif content and entry.sha256 and (now := sha256(path)) != entry.sha256:
            what = f"is altered: its SHA-256 is {now[:12]}..., that of the file as saved was {entry.sha256[:12]}..."
            found.append(Fault(entry.path, what, node))
    return found


def complete(folder: Path) -> bool:
    """Whether this is a sealed checkpoint whose files, as far as this machine sees them, are there in full length."""
    if (folder / layout.UNFINISHED).exists() or not (folder / layout.MANIFEST).exists():
        return False
    try:
        seen = [entry for entry in Manifest.read(folder).entries if entry.ranks is None]
    except ValueError:
        return False
    return not check(folder, seen, content=False)


def look(folder: Path, probe: str) -> dict[str, Any]:
    """What one process sees of a checkpoint's folder.

    Args:
        folder: of the checkpoint.
        probe: name of a file that the trainer's process has put there.

    Returns:
        `node`: host name; `shared`: the probe is visible; `files`: path -> bytes.
    """
    return {
        "node": socket.gethostname(),
        "shared": (folder / probe).exists(),
        "files": layout.files(folder) if folder.exists() else {},
    }


def share_out(views: Sequence[Mapping[str, Any]], roles: Iterable[str]) -> list[list[str]]:
    """Which process seals which files: each file once, by a process that sees it, its own shards by itself.

    Args:
        views: `look` of each rank.
        roles: the folders (actor, critic) that the processes write; the rest belongs to the trainer.

    Returns:
        For each rank, paths.
    """
    jobs: list[list[str]] = [[] for _ in views]
    groups: dict[str, list[int]] = {}
    for rank, view in enumerate(views):
        groups.setdefault("" if view["shared"] else view["node"], []).append(rank)
    for ranks in groups.values():
        paths = sorted({path for rank in ranks for path in views[rank]["files"] if path.split("/")[0] in set(roles)})
        for number, path in enumerate(paths):
            jobs[owner(path, ranks, number)].append(path)
    return jobs


def owner(path: str, ranks: Sequence[int], number: int) -> int:
    """The rank that reads a file: the one whose shard it is, for others they take turns."""
    named = layout.shard(path)
    return named[1] if named and named[1] in ranks else ranks[number % len(ranks)]


def on_nodes(entries: Sequence[Sequence[Entry]], views: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Entries of all ranks, those that the trainer cannot see marked with the ranks of their node."""
    found = []
    for rank, (own, view) in enumerate(zip(entries, views, strict=True)):
        same = tuple(r for r, other in enumerate(views) if other["node"] == view["node"] and not other["shared"])
        found += list(own) if view["shared"] else [replace(entry, ranks=same) for entry in own]
        assert view["shared"] or rank in same
    return found

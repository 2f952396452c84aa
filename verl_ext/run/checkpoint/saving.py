"""One checkpoint being written: before, at the moment when all of it is there, and when it failed."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from verl_ext.run.checkpoint import driver_state, layout, manifest, space
from verl_ext.run.checkpoint.choice import older_than, say
from verl_ext.run.checkpoint.errors import CheckpointNotWritten
from verl_ext.run.checkpoint.settings import CheckpointSettings

# (what to do, arguments) -> what each training process answers, by rank
Ask = Callable[..., Sequence[Any]]


class Saving:
    """The checkpoint of one step.

    Args:
        root: `trainer.default_local_dir`.
        step: training steps done.
        asks: folder that training processes write (`actor`, and `critic` where there is one) -> has every one of them
            do something of `verl_ext.checkpoint.processes`. The critic's processes are on the actor's nodes.
        settings: of the run.
        identity: of the run, as JSON.
    """

    def __init__(
        self,
        root: Path,
        step: int,
        asks: Mapping[str, Ask],
        settings: CheckpointSettings,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.root, self.step, self.asks, self.settings = root.absolute(), step, asks, settings
        self.identity = identity
        self.folder = self.root / f"{layout.PREFIX}{step}"
        self.sealed = False
        self._needed = 0

    def begin(self, frees_first: bool) -> None:
        """Make the folder and see whether the disk has room.

        Args:
            frees_first: verl removes an older checkpoint before it writes, so that what is free now says little.

        Raises:
            CheckpointNotWritten: there is too little room.
        """
        layout.begin(self.folder)
        rooms = [room for ask in self.asks.values() for room in ask("room", str(self.folder), layout.UNFINISHED)]
        self._needed = sum(room["needed"] for room in rooms if room["shared"])
        if not self.settings.check_space or frees_first:
            return
        for node, needed, free, disk in short_of_room(rooms):
            raise CheckpointNotWritten(f"the disk {disk} has no room for it{node}: {amounts(needed, free)}")

    def seal(self, state: Mapping[str, Any]) -> None:
        """All of verl's files are there: add ours, list every file, and only then name the checkpoint.

        Args:
            state: of `driver_state.collect`.
        """
        driver_state.write(self.folder, state)
        digest = self.settings.digest == "sha256"
        probe = f".verl_ext.{secrets.token_hex(8)}"
        (self.folder / probe).touch()
        try:
            views = self.asks["actor"]("look", str(self.folder), probe)
        finally:
            (self.folder / probe).unlink()
        theirs = self.asks["actor"]("seal", str(self.folder), manifest.share_out(views, self.asks), digest)
        entries = manifest.on_nodes(theirs, views)
        listed = {entry.path for entry in entries if entry.ranks is None}
        own = [path for path in layout.files(self.folder) if path not in listed]
        entries += manifest.seal(self.folder, own, digest)
        made_with = {"verl": version("verl"), "verl_ext": version("verl-ext")}
        sizes = dict.fromkeys(self.asks, len(views))
        listed_last = tuple(sorted(entries, key=lambda e: e.path))
        manifest.Manifest(self.step, sizes, listed_last, made_with, self.identity).write(self.folder)
        layout.write_atomically(self.root / layout.TRACKER, str(self.step))
        self.sealed = True

    def failed(self, error: Exception) -> CheckpointNotWritten:
        """What to raise when the checkpoint could not be written; what there is of it is removed.

        The training processes are not asked: some may wait for ever for the one that failed.
        """
        free, disk = space.free(self.folder), space.disk(self.folder)
        written = sum(layout.files(self.folder).values()) if self.folder.exists() else 0
        if isinstance(error, CheckpointNotWritten):
            reason = str(error)
        elif space.says_full(error):
            needed, had = space.readable(max(self._needed, written)), space.readable(free + written)
            reason = f"the disk {disk} is full: {needed} are needed, {had} were free"
        else:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
        layout.discard(self.folder)
        return CheckpointNotWritten(f"the checkpoint of step {self.step} was not written: {reason}.\n{self._after()}")

    def _after(self) -> str:
        gone = not self.folder.exists()
        left = "Nothing of it is left." if gone else f"What is left of it in {self.folder} is marked as unfinished."
        newest = older_than(self.folder)
        if newest is None:
            return f"{left} There is no complete checkpoint."
        return (
            f"{left} The newest complete checkpoint is {newest}: once the cause is gone, the same command resumes "
            "from it (trainer.resume_mode=auto). trainer.max_actor_ckpt_to_keep=2 keeps two."
        )


class Sealer(io.StringIO):
    """Stands in for verl's tracker file: when verl has written and closes it, the checkpoint is sealed first."""

    def __init__(self, seal: Callable[[], None]) -> None:
        super().__init__()
        self._seal = seal

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._seal()


def amounts(needed: int, free: int) -> str:
    """Example: `amounts(3 * 2**20, 2**10)` is '3.0 MiB are needed, 1.0 KiB are free'."""
    return f"{space.readable(needed)} are needed, {space.readable(free)} are free"


def short_of_room(rooms: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int, str]]:
    """The disks that cannot hold what the processes on them are about to write.

    Args:
        rooms: what `processes.room` of each rank answered.

    Returns:
        For each: the node in words, empty for the trainer's own; bytes needed; bytes free; the disk.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for room in rooms:
        groups.setdefault("" if room["shared"] else room["node"], []).append(room)
    found = []
    for node, members in groups.items():
        needed, free = sum(room["needed"] for room in members), min(room["free"] for room in members)
        if needed > free:
            found.append((f" on node {node}" if node else "", needed, free, members[0]["disk"]))
    return found


def seal_without_list(folder: Path, state: Mapping[str, Any]) -> None:
    """For verl's asynchronous saving, which is still writing: our state alone, and no word that it is complete."""
    os.makedirs(folder, exist_ok=True)
    driver_state.write(folder, state)
    say(f"{folder}: with async_save=true the files are still being written, so it gets no list of files")

"""Why a run cannot save or cannot resume. Each message says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or cannot be resumed from."""


class CheckpointNotWritten(CheckpointError):
    """Nothing half-written is left; the checkpoint before it is as it was."""


class CheckpointCorrupt(CheckpointError):
    """Files are missing, short or altered.

    Attributes:
        older: the newest complete checkpoint that could be used instead, None if there is none.
    """

    def __init__(self, message: str, older: Path | None = None) -> None:
        super().__init__(message)
        self.older = older

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.older)


class OtherWorldSize(CheckpointError):
    """The shards were written by another number of processes."""


class OtherRun(CheckpointError):
    """The checkpoint was made by a run of another loss, estimator, model or data."""


class NothingLeftToDo(CheckpointError):
    """The checkpoint is at or behind the last step of the run."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one file of a checkpoint.

    Attributes:
        path: relative to the folder of the checkpoint.
        what: in words.
        node: the host that looked, where that is not the trainer's own.
    """

    path: str
    what: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" + (f" (on node {self.node})" if self.node else "")


SHOWN = 12


def listed(faults: Sequence[object]) -> str:
    """Faults as indented lines, at most `SHOWN` of them."""
    lines = [f"  - {fault}" for fault in faults[:SHOWN]]
    return "\n".join(lines + [f"  - and {len(faults) - SHOWN} more"] * (len(faults) > SHOWN))


def resume_from(folder: Path) -> str:
    """The overrides that resume from one checkpoint.

    Example:
        >>> resume_from(Path("/ckpt/global_step_4"))
        'trainer.resume_mode=resume_path trainer.resume_from_path=/ckpt/global_step_4'
    """
    return f"trainer.resume_mode=resume_path trainer.resume_from_path={folder}"


def way_out(older: Path | None) -> str:
    """What to do about a checkpoint that cannot be used, given the newest complete one before it."""
    if older is None:
        return "There is no complete checkpoint before it: start anew with trainer.resume_mode=disable."
    return (
        f"The newest complete checkpoint before it is {older}; to resume from it, add\n"
        f"  {resume_from(older)}\n"
        "or set +verl_ext.checkpoint.on_corrupt=previous to have that done in every such case."
    )

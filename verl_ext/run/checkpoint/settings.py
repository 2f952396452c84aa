"""Settings of `verl_ext.checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from verl_ext.hyper import Checked, flag, hyper, one_of


@dataclass
class CheckpointSettings(Checked):
    """How checkpoints are sealed, and what is done with one that cannot be resumed from.

    Attributes:
        digest: what the list of files holds of each file: its size and SHA-256, or its size alone.
        check_space: refuse to begin a checkpoint for which the disk has no room.
        on_corrupt: a damaged checkpoint ends the run, or the newest complete one before it is taken.
        other_run: a checkpoint of another loss, estimator, model or data ends the run, or is resumed from.
    """

    method: ClassVar[str] = "checkpoint"
    where: ClassVar[str] = "verl_ext.checkpoint"

    digest: str = hyper("sha256", one_of("sha256", "size"))
    check_space: bool = hyper(True, flag())
    on_corrupt: str = hyper("stop", one_of("stop", "previous"))
    other_run: str = hyper("stop", one_of("stop", "allow"))

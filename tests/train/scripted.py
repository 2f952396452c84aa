"""`verl-ext train` whose trainer is a small script: what is around the trainer, without one."""

from __future__ import annotations

import copy
import dataclasses
import io
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from verl_ext.composing.compose import Composed
from verl_ext.train import command, compose

ARGUMENTS = (
    "algo=grpo", "backend=cpu", "actor_rollout_ref.actor.use_dynamic_bsz=true", "actor_rollout_ref.rollout.n=2",
)  # fmt: skip


_compose = cache(lambda: compose(ARGUMENTS))  # takes a second


def train(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, verbose: bool = False) -> tuple[int, str]:
    """The exit status, and what was said beside the standard output."""

    class Scripted(Composed):
        def command(self) -> list[str]:
            return ["-c", script]

    def composed(arguments: list[str]) -> Composed:
        real = copy.deepcopy(_compose())
        real.config.trainer.default_local_dir = str(folder)
        # What a run names has to be there when it starts.
        (folder / "rows.jsonl").touch()
        real.config.data.train_files = real.config.data.val_files = str(folder / "rows.jsonl")
        real.config.actor_rollout_ref.model.path = str(folder)
        return Scripted(**{field.name: getattr(real, field.name) for field in dataclasses.fields(real)})

    monkeypatch.setattr(command, "compose", composed)
    said = io.StringIO()
    console = Console(file=said, soft_wrap=True, highlight=False, markup=False)
    status = command.train(ARGUMENTS, False, console, verbose)
    return status, said.getvalue()

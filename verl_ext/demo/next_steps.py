"""The commands that look at what the demo left, as they can be typed from the folder that the user is in."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from verl_ext.demo.command import RESPONSE_LENGTH
from verl_ext.run.checkpoint.layout import step_of, steps
from verl_ext.viewer.finding import FOLDER

if TYPE_CHECKING:
    from verl_ext.toy.assets import Assets

COMPARED = ("espo", "gspo", "grpo")


def commands(algo: str, assets: Assets, checkpoints: Path, metrics: Path | None) -> list[tuple[str, list[str]]]:
    """What for, and the arguments of `verl-ext`; only for what the run did leave.

    Args:
        algo: the method that was trained.
        assets: the model and data that it was trained on.
        checkpoints: of the run, with the token export in them.
        metrics: of verl's file logger.
    """
    found: list[tuple[str, list[str]]] = []
    if metrics is not None and metrics.exists():
        found.append(("its curves", ["report", here(metrics), "--out", here(metrics.with_name("curves.html"))]))
    exports = sorted((checkpoints / FOLDER).glob("step-*"))
    if exports:
        losses = [word for name in dict.fromkeys((algo, *COMPARED)) for word in ("--loss", name)]
        more = ["--tokenizer", here(assets.model_dir), "--out", here(checkpoints.with_name("replay.html"))]
        found.append(("every token of the last step", ["view", "tokens", here(checkpoints)]))
        found.append(("that step under other losses", ["view", "losses", here(exports[-1]), *losses, *more]))
    saved = sorted(steps(checkpoints), key=step_of) if checkpoints.exists() else []
    if saved:
        model = checkpoints / f"model_step_{step_of(saved[-1])}"
        data = f"demo={here(assets.val_parquet)}"
        decoding = ["--temperature", "1", "--max-tokens", str(RESPONSE_LENGTH)]
        out = ["--out", here(checkpoints.with_name("eval"))]
        found.append(("the model, for transformers and vLLM", ["eval", "export", here(checkpoints)]))
        found.append(("its accuracy in vLLM", ["eval", "run", here(model), "--benchmark", data, *decoding, *out]))
    return found


def here(path: Path) -> str:
    """A path from the working directory where it is below that."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def program() -> str:
    """What starts `verl-ext` in this user's shell: its name if that finds the one that runs now, else its path."""
    own = Path(sys.executable).with_name("verl-ext")
    named = shutil.which("verl-ext")
    if not own.exists() or (named is not None and os.path.samefile(named, own)):
        return "verl-ext"
    return here(own)


def show(found: list[tuple[str, list[str]]], console: Console) -> None:
    """Print the commands, a line each."""
    if found:
        console.print("\nTo look further:", highlight=False)
    for purpose, arguments in found:
        line = shlex.join([program(), *arguments])
        console.print(f"  # {purpose}\n  {line}", markup=False, highlight=False, soft_wrap=True)

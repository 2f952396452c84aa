"""Which checkpoint is meant: from a run's folder, verl's ``default_local_dir``, ``global_step_<n>`` or the weights.

::

    <default_local_dir>/
        latest_checkpointed_iteration.txt      verl's tracker: the step whose checkpoint is complete
        global_step_<n>/actor/                 the weights of a PPO run (an SFT run has no actor/)
            fsdp_config.json, model_world_size_<w>_rank_<r>.pt, huggingface/
            ckpt_contents.json, model/dist_ckpt/, model/huggingface/      (Megatron)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verl_ext.run.checkpoint.layout import TRACKER, is_checkpoint_name, step_of, steps

FSDP_MARK = "fsdp_config.json"
MEGATRON_MARK = "ckpt_contents.json"
_DEPTH = 2


class ExportError(RuntimeError):
    """A checkpoint that cannot be exported. `faults` are all that were found, `details` lines of a log."""

    def __init__(self, faults: list[str], details: list[str] | None = None) -> None:
        self.faults, self.details = faults, details or []
        super().__init__("; ".join(faults))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Attributes:
        folder: where the weights are.
        backend: ``fsdp`` or ``megatron``.
        step: of the training; None where no folder says it.
    """

    folder: Path
    backend: str
    step: int | None

    @property
    def huggingface(self) -> Path:
        """Configuration and tokenizer, and where they were saved (``hf_model``) whole weights."""
        return self.folder / ("model/huggingface" if self.backend == "megatron" else "huggingface")

    @property
    def default_target(self) -> Path:
        """Where the export goes unless told otherwise: beside the checkpoints."""
        named = step_folder(self.folder)
        if named is None:
            return self.folder.with_name(f"{self.folder.name}_model")
        return named.with_name(f"model_step_{self.step}")


def find(path: Path) -> Checkpoint:
    """The checkpoint that a path means; of several the one that verl would resume from.

    Raises:
        ExportError: if there is none, or it cannot be told which one.
    """
    path = path.absolute()
    if not path.is_dir():
        raise ExportError([f"{path}: no such folder"])
    if holds_weights(path):
        return _checkpoint(path)
    if is_checkpoint_name(path.name):
        return _of_step(path)
    roots = _roots(path)
    if not roots:
        raise ExportError([f"{path} has no checkpoint: neither weights nor a folder global_step_<n>"])
    if len(roots) > 1:
        raise ExportError([f"{path} has the checkpoints of several runs; name one: {', '.join(map(str, roots))}"])
    return _of_step(latest(roots[0]))


def holds_weights(folder: Path) -> bool:
    """Whether a folder is that of an actor's weights, whole or damaged."""
    marks = (FSDP_MARK, MEGATRON_MARK, "huggingface", "dist_ckpt", "model/dist_ckpt", "model/huggingface")
    return any((folder / mark).exists() for mark in marks) or any(folder.glob("model_world_size_*_rank_*.pt"))


def latest(root: Path) -> Path:
    """The folder of the last complete step.

    verl writes the tracker after a checkpoint. It is empty for a moment while it is written; the newest folder counts
    then, as it does where there is no tracker.

    Raises:
        ExportError: if the tracker names a step that is gone.
    """
    tracker = root / TRACKER
    text = tracker.read_text(encoding="utf-8").strip() if tracker.is_file() else ""
    there = {step_of(folder): folder for folder in steps(root)}
    if not text.isdigit():
        return there[max(there)]
    if int(text) not in there:
        named = ", ".join(there[step].name for step in sorted(there))
        raise ExportError([f"{tracker} names step {text}, which is not there; name one of {named}"])
    return there[int(text)]


def _roots(path: Path) -> list[Path]:
    """The nearest folders with checkpoints in them, `path` itself first."""
    level = [path]
    for _ in range(_DEPTH + 1):
        found = [folder for folder in level if steps(folder)]
        if found:
            return found
        level = sorted(child for folder in level for child in folder.iterdir() if child.is_dir())
    return []


def _of_step(folder: Path) -> Checkpoint:
    actor = folder / "actor"
    if actor.is_dir():
        return _checkpoint(actor)
    if holds_weights(folder):
        return _checkpoint(folder)
    raise ExportError([f"{folder} has no folder actor, and no weights of its own: the save did not get that far"])


def _checkpoint(folder: Path) -> Checkpoint:
    megatron = (folder / MEGATRON_MARK).exists() or (folder / "model").is_dir() or (folder / "dist_ckpt").is_dir()
    return Checkpoint(folder, "megatron" if megatron else "fsdp", step_in(folder))


def step_in(folder: Path) -> int | None:
    """The step that a folder or one above it is named after.

    Example:
        >>> step_in(Path("run/global_step_20/actor")), step_in(Path("run/actor"))
        (20, None)
    """
    named = step_folder(folder)
    return None if named is None else step_of(named)


def step_folder(folder: Path) -> Path | None:
    """The folder ``global_step_<n>`` that a folder is, or lies in."""
    return next((one for one in (folder, *folder.parents) if is_checkpoint_name(one.name)), None)

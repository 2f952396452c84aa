"""Which checkpoint a run starts from, decided before anything of it is read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_ext.run.checkpoint import identity, layout, manifest
from verl_ext.run.checkpoint.errors import (
    CheckpointCorrupt,
    Fault,
    NothingLeftToDo,
    OtherRun,
    OtherWorldSize,
    listed,
    way_out,
)


@dataclass(frozen=True)
class Horizon:
    """Where a run ends.

    Attributes:
        steps: `trainer.total_training_steps`, or what the epochs amount to.
        epochs: `trainer.total_epochs`.
        steps_per_epoch: full batches in the training data.
        only_validates: `trainer.val_only`: such a run trains nothing anyway.
    """

    steps: int
    epochs: int
    steps_per_epoch: int
    only_validates: bool = False


def older_than(folder: Path) -> Path | None:
    """The newest complete checkpoint of an earlier step beside a folder."""
    here = layout.step_of(folder)
    older = (path for path in layout.steps(folder.parent) if layout.step_of(path) < here)
    return next((path for path in older if manifest.complete(path)), None)


def named_by_tracker(root: Path) -> Path | None:
    """The checkpoint that `trainer.resume_mode=auto` means; None to train from scratch.

    Raises:
        CheckpointCorrupt: there are complete checkpoints, but the tracker file names none that is there. verl would
            train from scratch, over them.
    """
    try:
        step = layout.tracked(root)
        wrong = "is missing" if step is None else f"names {layout.PREFIX}{step}, which is not there"
    except ValueError as error:
        step, wrong = -1, str(error)
    if step is not None and (root / f"{layout.PREFIX}{step}").is_dir():
        return root / f"{layout.PREFIX}{step}"
    newest = next((path for path in layout.steps(root) if manifest.complete(path)), None)
    if newest is None and step is None:
        return None
    raise CheckpointCorrupt(f"{root / layout.TRACKER} {wrong}.\n{_way_out_of_tracker(newest)}", newest)


def _way_out_of_tracker(newest: Path | None) -> str:
    return way_out(newest).replace(" before it", "")


def refuse_when_done(folder: Path, horizon: Horizon) -> None:
    """Refuse a checkpoint after which no step is left: verl would end quietly, as if it had trained.

    Raises:
        NothingLeftToDo: with what to set in order to train on.
    """
    step = layout.step_of(folder)
    if horizon.only_validates:
        return
    if step >= horizon.steps:
        end = f"trainer.total_training_steps={horizon.steps}"
    elif step // horizon.steps_per_epoch >= horizon.epochs:
        end = f"trainer.total_epochs={horizon.epochs} with {horizon.steps_per_epoch} steps each"
    else:
        return
    raise NothingLeftToDo(
        f"nothing is left to do: {folder} has {step} steps done, and the run ends with {end}.\n"
        "To train on, raise trainer.total_training_steps (and trainer.total_epochs); to train anew, use another "
        "trainer.default_local_dir or trainer.resume_mode=disable; to validate it, trainer.val_only=true."
    )


def refuse_other_run(
    folder: Path, then: identity.Identity, now: identity.Identity, only_validates: bool, sure: bool = False
) -> None:
    """Refuse a checkpoint of another run: its weights and Adam's moments would go on under this run's name.

    Args:
        folder: of the checkpoint.
        then: the run that made it.
        now: this run.
        only_validates: `trainer.val_only`.
        sure: as of `identity.differences`.

    Raises:
        OtherRun: with both sides of every difference, and the ways out.
    """
    parts = identity.FOR_VALIDATION if only_validates else identity.REFUSED
    if found := identity.differences(then, now, parts, sure):
        raise OtherRun(
            f"{folder} was made by another run:\n{listed(found)}\n"
            "To keep both, give this one a folder of its own (trainer.experiment_name, or trainer.default_local_dir); "
            "to start anew in the place of the other, set trainer.resume_mode=disable; to go on with its weights and "
            "its optimizer's state all the same, +verl_ext.checkpoint.other_run=allow."
        )


def tell_of_other_run(folder: Path, then: identity.Identity | None, now: identity.Identity) -> None:
    """Say in what a checkpoint that is resumed from differs from this run."""
    if then is None:
        say(f"{folder} does not tell which run made it (an earlier verl_ext did): whether it was this one is unchecked")
        return
    if found := identity.differences(then, now):
        say(f"resuming from another run, because of +verl_ext.checkpoint.other_run=allow: {folder}\n{listed(found)}")
    if noted := identity.changes(then, now):
        say(f"{folder} was made with other settings (then -> now):\n{listed(noted)}")


def refuse_other_world_size(folder: Path, now: int) -> None:
    """Refuse FSDP shards of another number of processes, before any process tries to load one.

    Args:
        folder: of the checkpoint.
        now: training processes of this run.

    Raises:
        OtherWorldSize: with both numbers and what to do.
    """
    # What other nodes hold is in the list alone.
    sealed = (folder / layout.MANIFEST).exists()
    paths = [entry.path for entry in manifest.Manifest.read(folder).entries] if sealed else layout.files(folder)
    for role, sizes in sorted(layout.world_sizes(paths).items()):
        if now in sizes:
            continue
        then = " or ".join(map(str, sorted(sizes)))
        raise OtherWorldSize(
            f"{folder / role} was written by {then} training processes, this run has {now}: verl's FSDP shards can "
            "be loaded by the same number of processes only.\n"
            f"Either run with trainer.nnodes * trainer.n_gpus_per_node = {then}, or merge the weights\n"
            f"  verl-ext eval export {folder} --out MERGED\n"
            "and start from them with a fresh optimizer, in a new folder, counting from step 0:\n"
            "  actor_rollout_ref.model.path=MERGED trainer.default_local_dir=NEW trainer.resume_mode=disable"
        )


def faults_before_reading(folder: Path) -> list[Fault]:
    """What is wrong with a checkpoint as far as the trainer's process can tell from names and sizes."""
    if not folder.is_dir():
        return [Fault(folder.name, "is missing")]
    if (folder / layout.UNFINISHED).exists():
        return [Fault(layout.UNFINISHED, "is there: the run ended while it wrote this checkpoint")]
    if not (folder / layout.MANIFEST).exists():
        return []
    try:
        found = manifest.Manifest.read(folder)
    except ValueError as error:
        return [Fault(layout.MANIFEST, str(error))]
    return manifest.check(folder, [entry for entry in found.entries if entry.ranks is None], content=False)


def choose(
    start: Path, on_corrupt: str, refuse: Callable[[Path], None], content: Callable[[Path], Sequence[Fault]]
) -> Path:
    """The checkpoint to resume from: `start`, or a complete one before it where that is allowed.

    Args:
        start: what the configuration asks for.
        on_corrupt: `stop`, or `previous`.
        refuse: raises where a checkpoint must not be resumed from although nothing is wrong with its files.
        content: reads every file of a checkpoint and tells what is wrong.

    Raises:
        CheckpointCorrupt: naming each file at fault, and what can be resumed from instead.
    """
    folder = start
    while True:
        faults = faults_before_reading(folder)
        if not faults:
            refuse(folder)
            faults = list(content(folder))
        if not faults:
            return folder
        older = older_than(folder)
        text = f"{folder} is not a complete checkpoint:\n{listed(faults)}\n"
        if on_corrupt == "stop" or older is None:
            raise CheckpointCorrupt(text + way_out(older), older)
        say(f"{text}Going back to {older}, as verl_ext.checkpoint.on_corrupt says.")
        folder = older


def say(text: str) -> None:
    """To the user; verl raises its log level, and this must be seen."""
    sys.stderr.write(f"verl_ext: {text}\n")
    sys.stderr.flush()

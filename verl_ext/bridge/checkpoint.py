"""verl's saving and loading: sealed checkpoints, checked before a resume, with what verl leaves out.

Bound to `PPOTrainer`, from which the sync, colocate_async and separate_async trainers inherit, and to the workers,
which read and write the files of their nodes.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.bridge import run_identity
from verl_ext.run import settings as run_settings
from verl_ext.run.checkpoint import choice, driver_state, identity, layout, manifest, processes
from verl_ext.run.checkpoint.errors import CheckpointCorrupt, Fault
from verl_ext.run.checkpoint.saving import Saving, Sealer, seal_without_list

SECTION = "checkpoint"
METHOD = "verl_ext_checkpoint"
# The checkpoint that this process, a trainer, is writing: a trainer writes one at a time.
_current: list[tuple[Saving, Any]] = []


def bind_workers(engine_workers: ModuleType) -> None:
    """Called when ``verl.workers.engine_workers`` has been imported, before the class is made a Ray actor."""
    from verl.single_controller.base.decorator import Dispatch, register

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def verl_ext_checkpoint(self: Any, what: str, *arguments: Any) -> Any:
        worker = getattr(self, "actor", self)  # the critic is a worker of its own, the actor is inside of one
        return processes.answer(what, self.rank, worker.engine, *arguments)

    for cls in (engine_workers.ActorRolloutRefWorker, engine_workers.TrainingWorker):
        setattr(cls, METHOD, verl_ext_checkpoint)


def bind_driver(config_module: ModuleType) -> None:
    """Called when ``verl.utils.config`` has been imported: what can be told from names and sizes is told at once."""
    original = config_module.validate_config

    @functools.wraps(original)
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(config, *args, **kwargs)
        refuse_early(config)
        return result

    config_module.validate_config = validate_config  # type: ignore[attr-defined]


def bind(trainer_base: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.v1.trainer_base`` has been imported."""
    cls = trainer_base.PPOTrainer
    save, load, reissue = cls._save_checkpoint, cls._load_checkpoint, cls._reissue_inflight_prompts

    @functools.wraps(save)
    def _save_checkpoint(self: Any) -> None:
        save_sealed(self, save)

    @functools.wraps(load)
    def _load_checkpoint(self: Any) -> None:
        folder = chosen(self)
        identity_of(self)  # as it is when training begins
        if folder is None:
            load(self)
            return
        with resuming_from(self.config, folder):
            load(self)
        restore(self, folder)

    @functools.wraps(reissue)
    def _reissue_inflight_prompts(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The last thing that every trainer does before its loop, after a validation that draws random numbers.
        result = reissue(self, *args, **kwargs)
        restore_random(self)
        return result

    cls._save_checkpoint, cls._load_checkpoint = _save_checkpoint, _load_checkpoint
    cls._reissue_inflight_prompts = _reissue_inflight_prompts
    trainer_base.open = _open  # type: ignore[attr-defined]


def _open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    """In place of `open` in verl's trainer: the tracker file is written by us, after the list of files."""
    if _current and mode == "w" and os.path.abspath(file) == str(_current[-1][0].root / layout.TRACKER):
        saving, trainer = _current[-1]
        return Sealer(lambda: saving.seal(state_of(trainer)))
    return builtins.open(file, mode, *args, **kwargs)


def save_sealed(trainer: Any, save: Any) -> None:
    """Have verl write a checkpoint, and seal it; one that fails leaves nothing that could be taken for one.

    Raises:
        CheckpointNotWritten: naming the disk where that is full, and the newest complete checkpoint.
    """
    settings = run_settings.section(trainer.config, SECTION)
    groups = {"actor": trainer.actor_rollout_wg, **({"critic": trainer.critic_wg} if trainer.use_critic else {})}
    saving = Saving(
        Path(trainer.config.trainer.default_local_dir),
        trainer.global_steps,
        {role: getattr(group, METHOD) for role, group in groups.items()},
        settings,
        identity_of(trainer).as_json(),
    )
    if trainer.config.actor_rollout_ref.actor.get("checkpoint", {}).get("async_save", False):
        save(trainer)
        seal_without_list(saving.folder, state_of(trainer))
        return
    _current.append((saving, trainer))
    try:
        saving.begin(frees_first=(trainer.config.trainer.get("max_actor_ckpt_to_keep", None) or 0) > 1)
        save(trainer)
    except Exception as error:
        if saving.sealed:
            raise  # by a callback of the user's: the checkpoint is complete
        raise saving.failed(error) from error
    finally:
        _current.pop()


def identity_of(trainer: Any, known: Mapping[str, list[Any]] | None = None) -> identity.Identity:
    """What the run is, looked up once."""
    if "verl_ext_identity" not in trainer.__dict__:
        trainer.verl_ext_identity = run_identity.of(trainer.config, known)
    found: identity.Identity = trainer.verl_ext_identity
    return found


def state_of(trainer: Any) -> dict[str, Any]:
    """What verl does not save of the trainer's process."""
    return driver_state.collect(getattr(trainer, "kl_ctrl_in_reward", None))


def refuse_early(config: Any) -> None:
    """In the driver, before Ray starts and as far as it sees the folder: refuse what the trainer would refuse.

    Raises:
        CheckpointError: the checkpoint that is asked for cannot be resumed from.
    """
    trainer, settings = config.trainer, run_settings.section(config, SECTION)
    if settings.on_corrupt == "previous":
        return  # which one is taken is known once files have been read
    start = asked_for(trainer)
    if start is None or not start.is_dir():
        return
    steps = trainer.total_training_steps or sys.maxsize
    horizon = choice.Horizon(steps, trainer.total_epochs, sys.maxsize, trainer.get("val_only", False))

    def refuse(folder: Path) -> None:
        then = identity.of_checkpoint(folder)
        if then is not None and settings.other_run == "stop":
            choice.refuse_other_run(
                folder, then, run_identity.of(config, then.files), horizon.only_validates, sure=True
            )
        choice.refuse_when_done(folder, horizon)
        choice.refuse_other_world_size(folder, trainer.nnodes * trainer.n_gpus_per_node)

    choice.choose(start, "stop", refuse, lambda folder: [])


def chosen(trainer: Any) -> Path | None:
    """The checkpoint to resume from; None to train from scratch.

    Raises:
        CheckpointError: the one that is asked for cannot be resumed from.
    """
    settings, config = run_settings.section(trainer.config, SECTION), trainer.config.trainer
    try:
        start = asked_for(config)
    except CheckpointCorrupt as error:
        if settings.on_corrupt == "stop" or error.older is None:
            raise
        choice.say(f"{error}\nGoing back to {error.older}, as verl_ext.checkpoint.on_corrupt says.")
        start = error.older
    if start is None:
        return None
    horizon = choice.Horizon(
        trainer.total_training_steps, config.total_epochs, trainer.steps_per_epoch, config.get("val_only", False)
    )

    def refuse(folder: Path) -> None:
        then = identity.of_checkpoint(folder)
        if then is not None and settings.other_run == "stop":
            choice.refuse_other_run(folder, then, identity_of(trainer, then.files), horizon.only_validates)
        choice.refuse_when_done(folder, horizon)
        choice.refuse_other_world_size(folder, trainer.actor_rollout_wg.world_size)

    folder = choice.choose(start, settings.on_corrupt, refuse, functools.partial(read_through, trainer))
    if (folder / layout.MANIFEST).exists():
        then = identity.of_checkpoint(folder)
        choice.tell_of_other_run(folder, then, identity_of(trainer, then.files if then else None))
    return folder


def asked_for(config: Any) -> Path | None:
    """What ``trainer.resume_mode`` asks for, as verl reads it; None also where verl itself refuses it."""
    if config.resume_mode == "auto":
        return choice.named_by_tracker(Path(config.default_local_dir).absolute())
    path = config.resume_from_path
    if config.resume_mode == "resume_path" and isinstance(path, str) and layout.is_checkpoint_name(Path(path).name):
        return Path(path).absolute()
    return None


def read_through(trainer: Any, folder: Path) -> list[Fault]:
    """Have every file read by the process that will load it, or by the trainer; what is wrong with them."""
    if not (folder / layout.MANIFEST).exists():
        choice.say(f"{folder} has no list of its files (it was made without verl_ext): it is resumed from unchecked")
        return []
    found = manifest.Manifest.read(folder)
    size = trainer.actor_rollout_wg.world_size
    jobs: list[list[manifest.Entry]] = [[] for _ in range(size)]
    own = []
    for number, entry in enumerate(found.entries):
        if entry.path.split("/")[0] in found.world_size:
            ranks = [rank for rank in entry.ranks or range(size) if rank < size] or list(range(size))
            jobs[manifest.owner(entry.path, ranks, number)].append(entry)
        else:
            own.append(entry)
    answers = getattr(trainer.actor_rollout_wg, METHOD)("check", str(folder), jobs)
    return [*manifest.check(folder, own, content=True), *(fault for answer in answers for fault in answer)]


@contextmanager
def resuming_from(config: Any, folder: Path) -> Iterator[None]:
    """verl's own loading takes this checkpoint, whatever the configuration says."""
    from omegaconf import open_dict

    before = config.trainer.resume_mode, config.trainer.resume_from_path
    with open_dict(config):
        config.trainer.resume_mode, config.trainer.resume_from_path = "resume_path", str(folder)
    try:
        yield
    finally:
        with open_dict(config):
            config.trainer.resume_mode, config.trainer.resume_from_path = before


def restore(trainer: Any, folder: Path) -> None:
    """After verl's own loading: what verl does not save. The random state waits until the loop begins."""
    saved = driver_state.read(folder)
    if saved is None:
        choice.say(
            f"{folder} has no {layout.STATE}: the KL coefficient, the plugin's own state and the trainer's random "
            "state start anew"
        )
        return
    driver_state.restore(saved, getattr(trainer, "kl_ctrl_in_reward", None))
    trainer.verl_ext_saved_state = saved


def restore_random(trainer: Any) -> None:
    """The random state as it was when the checkpoint was made, once."""
    saved = trainer.__dict__.pop("verl_ext_saved_state", None)
    if saved is None:
        return
    if trainer.train_dataloader_it is None:
        # Making the iterator draws from torch's generator; the run that is continued did that before it was saved.
        trainer.train_dataloader_it = iter(trainer.train_dataloader)
    driver_state.restore_random(saved)

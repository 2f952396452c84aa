"""Everything that is wrong with a composed configuration, found without a GPU and without Ray."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_ext import modules
from verl_ext.checks import files, fitness, megatron, methods, notes
from verl_ext.composing.preset import Preset
from verl_ext.run import keys

# A value that lets the other checks go on where a key must still be set.
_STAND_INS = {"actor_rollout_ref.rollout.name": "vllm"}

# Part of what verl raises -> part of our fault that says the same of the same settings.
TOLD_BY_US = {
    "train_batch_size (": "is below",
    "real_train_batch_size (": "rows cannot be divided among",
    "n_gpus (": "cannot be divided into groups of",
    "got an unexpected keyword argument": "policy_loss._target_=",
    "Invalid loss_agg_mode: ": "aggregates with",
}


@dataclass(frozen=True)
class Findings:
    """What a check found.

    Attributes:
        faults: what would stop the run or make it pointless, one sentence each.
        notes: what a person should know, and what verl prints.
        complete: whether all checks could be made; not where a value is missing that they need.
    """

    faults: list[str]
    notes: list[str]
    complete: bool = True


def check(config: DictConfig, preset: Preset | None = None) -> list[str]:
    """All faults of a composed configuration: the methods', verl's own, and those of how the numbers fit together.

    Args:
        config: composed.
        preset: `Composed.preset`, to know whether that is what would run.

    Example:
        >>> from verl_ext.train import check, compose
        >>> check(compose(["algo=sspo", "backend=fsdp", "data.train_batch_size=100"]).config)[0][:60]
        'data.train_batch_size=100 is below actor_rollout_ref.actor.p'
    """
    return examine(config, preset).faults


def examine(config: DictConfig, preset: Preset | None = None, start: bool = False) -> Findings:
    """As `check`, with the notes. The configuration is left as it is.

    Args:
        config: composed.
        preset: as of `check`.
        start: the run starts now, so that what is not on this machine is a fault, not a note.
    """
    # verl's plugin mechanism registers our methods in verl.
    import verl  # noqa: F401

    config = copy.deepcopy(config)
    own = own_findings(config, start, preset=preset)
    if not own.complete:
        return own
    raised, printed = _verls_own(config)
    # Where verl stumbles over a fault that is told already, its words add nothing.
    told = "\n".join(own.faults)
    further = [fault for fault in raised if fault not in told and not _told_by_us(fault, told)]
    further = [fault for fault in further if not methods.same_class(fault, own.faults)]
    return Findings([*own.faults, *further], [*printed, *own.notes])


def own_findings(config: DictConfig, start: bool, ours: bool = True, preset: Preset | None = None) -> Findings:
    """What we find without verl's own checks: the same for a dry run, `verl-ext train` and verl's entry point.

    Args:
        config: composed; keys with a stand-in get it.
        start: as of `examine`.
        ours: the run is one of ours. Any other is stopped by what would stop or falsify it alone; what we merely
            advise against is a note.
        preset: as of `check`.
    """
    # Before all others: the methods of other packages are in the tables then.
    outside = modules.faults(config)
    found, complete = unset(config)
    found += outside
    if not complete:
        others = _as_far_as_can_be_seen(config, preset)
        return Findings([*found, *others], [], complete=False) if ours else Findings(others, found, complete=False)
    found += [*methods.faults(config, preset), *fitness.stopping(config), *megatron.faults(config)]
    absent = list(files.absent(config).values())
    advice = fitness.advice(config)
    found += [*(advice if ours else []), *(absent if start and runs_here(config) else [])]
    said = [] if start and runs_here(config) else absent
    return Findings(found, [*said, *([] if ours else advice), *notes.notes(config)])


def _as_far_as_can_be_seen(config: DictConfig, preset: Preset | None) -> list[str]:
    """The methods' faults where some value is missing; at least that there are keys in it."""
    try:
        return methods.faults(config, preset)
    except OmegaConfBaseException:
        return keys.faults(config)


def runs_here(config: DictConfig) -> bool:
    """Whether the run starts a Ray of its own on this machine; a cluster's machines may have other files."""
    address = (config.ray_kwargs.get("ray_init", None) or {}).get("address", None) or os.environ.get("RAY_ADDRESS")
    return address in (None, "", "local")


def _told_by_us(raised: str, told: str) -> bool:
    return any(verls in raised and ours in told for verls, ours in TOLD_BY_US.items())


def unset(config: DictConfig) -> tuple[list[str], bool]:
    """Keys without a value, and values that cannot be resolved; whether the other checks can go on.

    Keys with a stand-in get it, in `config`.
    """
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        return [" ".join(str(error).split())], False
    found = []
    missing = sorted(OmegaConf.missing_keys(config))
    if not config.reward.reward_model.enable:
        missing = [key for key in missing if not key.startswith("reward.reward_model.")]
    for key in missing:
        hint = "; choose a backend (backend=fsdp, megatron or cpu)" if key in _STAND_INS else ""
        found.append(f"{key} has no value{hint}")
        if key in _STAND_INS:
            OmegaConf.update(config, key, _STAND_INS[key])
    return found, all(key in _STAND_INS for key in missing)


def _verls_own(config: DictConfig) -> tuple[list[str], list[str]]:
    """What verl's ``validate_config`` and its configuration classes raise, and what they print."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        # That there is no critic without GAE is no news.
        warnings.simplefilter("ignore")
        found = [fault for stage in (_validate, _rollout) for fault in _raised_by(stage, config)]
    lines = printed.getvalue().splitlines()
    return found, [line for line in lines if line.startswith(("NOTICE", "WARNING"))]


def _validate(config: DictConfig) -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    # The function under our own wrapper, whose faults are here already and which prepares a run.
    original = inspect.unwrap(validate_config)
    original(
        config=without_lora(config),
        use_reference_policy=need_reference_policy(config),
        use_critic=need_critic(config),
    )


def _rollout(config: DictConfig) -> None:
    from verl.utils.config import omega_conf_to_dataclass

    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)


def without_lora(config: DictConfig) -> DictConfig:
    """verl's check of the rank imports vLLM, which a machine that submits need not have; `fitness` has it too."""
    config = copy.deepcopy(config)
    config.actor_rollout_ref.model.lora_rank = 0
    if "lora" in config.actor_rollout_ref.model:
        config.actor_rollout_ref.model.lora.rank = 0
    return config


def _raised_by(stage: Callable[[DictConfig], None], config: DictConfig) -> list[str]:
    try:
        stage(config)
    except Exception as error:  # whatever verl raises is a fault of the configuration, and reported as one
        cause: Any = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        from verl_ext.hyper import one_each

        return one_each(cause) if str(cause) else [f"verl raises {type(cause).__name__}"]
    return []

"""What the guards need of the rest of the configuration: refused before Ray starts where it is not there, and read."""

from __future__ import annotations

from typing import Any

from verl_ext.rollout import source
from verl_ext.run import settings as run_settings
from verl_ext.run.guards.entropy import checkpoints_needed
from verl_ext.run.guards.settings import NODE, GuardSettings

# What a checkpoint must hold to go back to it: weights, optimizer, and scheduler with the random state.
CONTENTS = ("model", "optimizer", "extra")
# verl's estimators that compare a response with others of its prompt; ours all do.
GROUP_ESTIMATORS = (
    "gdpo",
    "gpg",
    "grpo",
    "grpo_passk",
    "grpo_vectorized",
    "opo",
    "optimal_token_baseline",
    "reinforce_plus_plus_baseline",
    "rloo",
    "rloo_vectorized",
    "tir_optimal_token_baseline",
)
# Groups in a row that must fail before a run that would replace them stops, however small its batch.
LEAST_FAILED = 8


def faults(config: Any) -> list[str]:
    """Every contradiction between the guards and the rest, as sentences; where the section itself is at fault, the
    faults of the groups alone.
    """
    found = group_faults(config)
    try:
        settings = run_settings.section(config, "guards")
    except ValueError:
        return found
    given = (config.get(run_settings.NODE, None) or {}).get("guards", None)
    if given and not config.trainer.get("use_v1", True):
        found.append(f"{NODE} has no effect with trainer.use_v1=false: the guards are bound to verl's V1 trainers")
    if settings.nonfinite_action == "skip" and config.actor_rollout_ref.actor.strategy == "megatron":
        found.append(
            f"{NODE}.nonfinite_action=skip: Megatron applies an update whose gradient is NaN, so that there would be "
            "nothing left to go on with; use stop"
        )
    if settings.entropy_floor is not None and not measurable(config):
        found.append(
            f"{NODE}.entropy_floor={settings.entropy_floor:g}: there are no entropies to compare with it, since bypass "
            "mode leaves out the actor's pass and the rollout returns none; see docs/rollout-entropies.md"
        )
    if settings.entropy_action == "rollback":
        found += [f"{NODE}.entropy_action=rollback: {fault}" for fault in rollback_faults(config, settings)]
    return found


def compares_in_groups(config: Any) -> bool:
    """Whether the estimator sets a response against others of its prompt, and of nothing else."""
    from verl_ext import plugin

    estimator = str(config.algorithm.adv_estimator)
    return estimator in GROUP_ESTIMATORS or estimator in plugin.ESTIMATORS


def group_faults(config: Any) -> list[str]:
    """Groups of one response. A run that is not ours may mean it: verl's GRPO then takes the bare reward."""
    number = config.actor_rollout_ref.rollout.n
    if number > 1 or not compares_in_groups(config) or not run_settings.ours(config):
        return []
    return [
        f"actor_rollout_ref.rollout.n={number}: the estimator {config.algorithm.adv_estimator} compares the responses "
        "of a prompt with each other, and one has nothing to be compared with; set it to 2 or more (8 is usual), or "
        "algorithm.adv_estimator to one without groups (gae, reinforce_plus_plus)"
    ]


def measurable(config: Any) -> bool:
    """Whether a batch will have the old policy's entropies."""
    try:
        decided = source.resolve(config)
    except ValueError:
        return True  # a fault of its own, reported elsewhere
    return decided.provider == "actor" or decided.tap


def rollback_faults(config: Any, settings: GuardSettings) -> list[str]:
    """Why this run could not go back to a checkpoint."""
    trainer, found = config.trainer, []
    mode = trainer.v1.trainer_mode
    if mode != "sync":
        found.append(
            f"trainer.v1.trainer_mode={mode}: responses of the collapsed policy are under way there when the weights "
            "are restored; it is possible with sync, here use stop and resume"
        )
    if trainer.save_freq <= 0:
        found.append(f"trainer.save_freq={trainer.save_freq}: no checkpoint would be there; set it to 1 or more")
    else:
        found += kept_faults(trainer, checkpoints_needed(settings.entropy_steps, trainer.save_freq), settings)
    checkpoint = config.actor_rollout_ref.actor.get("checkpoint", None) or {}
    if checkpoint.get("async_save", False):
        found.append("actor_rollout_ref.actor.checkpoint.async_save=true: a checkpoint may be incomplete; set it false")
    for key in ("save_contents", "load_contents"):
        lacking = [name for name in CONTENTS if name not in (checkpoint.get(key, None) or CONTENTS)]
        if lacking:
            found.append(f"actor_rollout_ref.actor.checkpoint.{key} lacks {', '.join(lacking)}")
    return found


def kept_faults(trainer: Any, needed: int, settings: GuardSettings) -> list[str]:
    """Fewer checkpoints kept than the watch needs."""
    keys = ("max_actor_ckpt_to_keep", "max_critic_ckpt_to_keep")
    kept = {key: trainer.get(key, None) for key in keys}
    if trainer.get("remove_previous_ckpt_in_save", False):
        kept = {"remove_previous_ckpt_in_save": 1}
    return [
        f"trainer.{key} keeps {number}, but with entropy_steps={settings.entropy_steps} and "
        f"save_freq={trainer.save_freq} the last good checkpoint is the {needed}th from the end; keep {needed}"
        for key, number in kept.items()
        if number is not None and 0 < number < needed
    ]


def sessions(config: Any) -> int:
    """Sessions that one batch asks for."""
    return prompts(config) * config.actor_rollout_ref.rollout.n


def prompts(config: Any) -> int:
    """Groups of one batch."""
    return config.data.train_batch_size // updates(config)


def updates(config: Any) -> int:
    """Batches that one step is made of."""
    mode = config.trainer.v1.get(config.trainer.v1.trainer_mode, None) or {}
    return mode.get("parameter_sync_step", 1)


def failed_groups(config: Any, settings: GuardSettings) -> int:
    """Groups in a row that must fail for the run to stop."""
    if settings.failed_groups is not None:
        return settings.failed_groups
    # Without a refill verl stops by itself once a whole batch has failed, and does not say why: be there first.
    refills = config.trainer.v1.trainer_mode != "sync" or config.trainer.v1.sampler.get(
        "sync_refill_failed_groups", False
    )
    return max(prompts(config), LEAST_FAILED if refills else 1)


def reward_function(config: Any) -> str:
    """The reward function's name and file, for a person."""
    own = config.reward.get("custom_reward_function", None) or {}
    return f"{own['name']} of {own['path']}" if own.get("path", None) else "verl's own, chosen by data_source"


def gradients_are_scaled(config: Any) -> bool:
    """Whether verl scales the loss dynamically, as it does in float16."""
    engine = config.actor_rollout_ref.actor.get("fsdp_config", None) or {}
    kind = (engine.get("mixed_precision", None) or {}).get("param_dtype", None)
    return str(kind) in ("16", "fp16", "float16")

"""What a composed configuration would do, in a few lines."""

from __future__ import annotations

import shlex
from typing import Any

from verl_ext import plugin
from verl_ext.composing.compose import Composed
from verl_ext.config_groups import GROUPS
from verl_ext.run.name import listed


def summary(composed: Composed, resolves: bool = True) -> list[str]:
    """Lines for a person: choices, method, batches, lengths, and the command that runs it.

    Args:
        composed: the configuration.
        resolves: whether its interpolations can be resolved; only the choices and the command are told if not.
    """
    chosen = [f"{group}={composed.choices[group]}" for group in GROUPS if group in composed.choices]
    lines = [f"choices   {' '.join(chosen) or 'none of our groups'} on {composed.primary}"]
    if resolves:
        lines += [f"{name:10}{text}" for name, text in numbers(composed.config).items()]
        changed = composed.preset.summary(composed.config) if composed.preset else ""
        lines += [f"changed   {changed}; in brackets what the preset has"] if changed else []
    return [*lines, f"command   python {shlex.join(composed.command())}"]


def numbers(config: Any) -> dict[str, str]:
    """The figures that one compares with a paper's."""
    actor, rollout, data, trainer = (
        config.actor_rollout_ref.actor,
        config.actor_rollout_ref.rollout,
        config.data,
        config.trainer,
    )
    updates = data.train_batch_size / actor.ppo_mini_batch_size * actor.ppo_epochs
    unit = "processes" if trainer.device == "cpu" else "GPUs"
    lora = config.actor_rollout_ref.model.lora_rank
    end = f"{trainer.total_training_steps} steps" if trainer.total_training_steps else f"{trainer.total_epochs} epochs"
    return {
        "method": f"loss {actor.policy_loss.loss_mode}, estimator {config.algorithm.adv_estimator}, "
        f"{actor.loss_agg_mode}, {_clip(actor)}lr {actor.optim.lr:g}",
        "model": f"{config.actor_rollout_ref.model.path}{f', LoRA rank {lora}' if lora else ''}",
        "data": ", ".join(map(str, listed(data.train_files))),
        "batch": f"{data.train_batch_size} prompts x {rollout.n} responses a step, {updates:g} updates of "
        f"{actor.ppo_mini_batch_size} prompts; until {end}",
        "lengths": f"prompt {data.max_prompt_length}, response {data.max_response_length} tokens",
        "run": f"{trainer.project_name}/{trainer.experiment_name}, in {trainer.default_local_dir}",
        "machines": f"{trainer.nnodes} x {trainer.n_gpus_per_node} {unit}, {actor.strategy}",
    }


def _clip(actor: Any) -> str:
    """verl's clip range, where the loss reads it."""
    method = plugin.POLICY_LOSSES.get(actor.policy_loss.loss_mode)
    if method is not None and "clip_ratio_low" not in method.settings:
        return ""
    return f"clip {actor.clip_ratio_low:g} / {actor.clip_ratio_high:g}, "

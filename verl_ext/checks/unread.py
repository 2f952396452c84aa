"""Settings of verl that one of our methods would not read, or that would take its place, refused before Ray starts.

verl has one actor configuration for all losses, and a loss picks what it knows. A setting that it does not know changes
nothing and says nothing. Each function here knows one way in which that happens. A run that names no method of ours is
left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

ACTOR = "actor_rollout_ref.actor"
MODEL = "actor_rollout_ref.model"
CORRECTION = "algorithm.rollout_correction"

SAPO = ("tau_pos", "tau_neg")
"""Keys of verl's actor that its loss `sapo` alone reads."""


def faults(config: Any) -> list[str]:
    """Every such setting of a composed trainer configuration, as sentences; empty when there is none."""
    from verl_ext import plugin

    actor = config.actor_rollout_ref.actor
    loss = plugin.POLICY_LOSSES.get(actor.policy_loss.get("loss_mode", "vanilla"))
    estimator = plugin.ESTIMATORS.get(str(config.algorithm.adv_estimator))
    found: list[str] = []
    if loss is not None:
        for check in (clip_faults, scale_faults, foreign_faults, correction_faults, distillation_faults):
            found += check(config, loss)
    if estimator is not None:
        found += estimator_faults(config, estimator)
    if loss is not None or estimator is not None:
        found += trainer_faults(config) + fused_faults(config, [each for each in (loss, estimator) if each is not None])
    return found


def clip_faults(config: Any, loss: Any) -> list[str]:
    """Clip ranges that the loss, with its options, does not clip by; and a dual clip that is none."""
    from verl_ext.plugin import clip_range

    actor = config.actor_rollout_ref.actor
    found = []
    low, high, usual = actor.clip_ratio_low, actor.clip_ratio_high, actor_default("clip_ratio")
    if None not in (low, high) and actor.clip_ratio != usual:
        found.append(
            f"{ACTOR}.clip_ratio={actor.clip_ratio:g}: not read, as clip_ratio_low={low:g} and "
            f"clip_ratio_high={high:g} are set; set these two"
        )
    why = own_bounds(loss, actor.policy_loss)
    low, high = clip_range(actor)
    given = [f"clip_ratio_{side}={value:g}" for side, value in (("low", low), ("high", high)) if value != usual]
    if why and given:
        found.append(
            f"{ACTOR}.{' and '.join(given)}: {loss.name} with {why} does not clip by it; leave it at {usual:g}"
        )
    c, dual = actor.clip_ratio_c, actor_default("clip_ratio_c")
    if "clip_ratio_c" not in loss.settings and c != dual:
        found.append(f"{ACTOR}.clip_ratio_c={c:g}: {loss.name} has no dual clip by it; leave it at {dual:g}")
    elif c <= 1:
        found.append(f"{ACTOR}.clip_ratio_c={c:g}: the dual clip of {loss.name} must be above 1")
    return found


def own_bounds(loss: Any, policy_loss: Any) -> str:
    """The option by which a loss has bounds of its own, or none, in the place of verl's clip range."""
    try:
        hyper = loss.resolve(policy_loss)
    except ValueError:
        return ""  # a fault of its own
    return str(loss.own_bounds(**hyper))


def scale_faults(config: Any, loss: Any) -> list[str]:
    """A divisor of one aggregation, with another one."""
    actor, mode = config.actor_rollout_ref.actor, "seq-mean-token-sum-norm"
    if actor.loss_scale_factor is None or actor.loss_agg_mode == mode:
        return []
    can = f"set loss_agg_mode={mode} or leave it out" if mode in loss.aggregations else f"{loss.name} has no use for it"
    return [
        f"{ACTOR}.loss_scale_factor={actor.loss_scale_factor}: not read with loss_agg_mode={actor.loss_agg_mode}; {can}"
    ]


def foreign_faults(config: Any, loss: Any) -> list[str]:
    """Hyper-parameters of verl's other losses, which verl's own YAML has beside ours with their defaults."""
    actor = config.actor_rollout_ref.actor
    found = [
        f"{ACTOR}.{key}={actor[key]:g}: read by sapo, not by {loss.name}; leave it at {actor_default(key):g}"
        for key in SAPO
        if actor.get(key) != actor_default(key)
    ]
    ours = {"_target_", "loss_mode", "rollout_correction", *loss.config_type().names()}
    for field in verls_loss_fields():
        value = actor.policy_loss.get(field.name)
        if field.name in ours or value is None or value == field.default:
            continue
        found.append(
            f"{ACTOR}.policy_loss.{field.name}={value}: belongs to another loss, {loss.name} does not read it; leave "
            f"it at {field.default}"
        )
    return found


def correction_faults(config: Any, loss: Any) -> list[str]:
    """Rollout correction asked for where verl does not compute it for a registered loss."""
    actor, correction = config.actor_rollout_ref.actor, config.algorithm.get("rollout_correction", None) or {}
    found = []
    if actor.policy_loss.get("rollout_correction", None):
        found.append(
            f"{ACTOR}.policy_loss.rollout_correction: read by loss_mode=bypass_mode, not by {loss.name}; use "
            f"{CORRECTION}"
        )
    if correction.get("loss_type", "ppo_clip") != "ppo_clip":
        found.append(
            f"{CORRECTION}.loss_type={correction['loss_type']}: read by loss_mode=bypass_mode, not by {loss.name}; "
            f"leave it at ppo_clip"
        )
    asked = [f"{key}={correction[key]}" for key in ("rollout_is", "rollout_rs") if correction.get(key, None)]
    if asked and correction.get("bypass_mode", False):
        found.append(
            f"{CORRECTION}.{' and '.join(asked)}: not computed with bypass_mode=true, where {loss.name} corrects by "
            f"its own ratio; leave it out, or set bypass_mode=false"
        )
    elif asked and not config.actor_rollout_ref.rollout.get("calculate_log_probs", False):
        found.append(
            f"{CORRECTION}.{' and '.join(asked)}: not computed with "
            f"actor_rollout_ref.rollout.calculate_log_probs=false; set it to true"
        )
    return found


def distillation_faults(config: Any, loss: Any) -> list[str]:
    """Distillation that takes the place of the policy loss."""
    distillation = config.get("distillation", None)
    if not distillation or not distillation.enabled or distillation.distillation_loss.use_task_rewards:
        return []
    return [
        f"distillation.distillation_loss.use_task_rewards=false: verl then trains on the distillation loss alone and "
        f"throws that of {loss.name} away; set it to true, or loss_mode=vanilla"
    ]


def estimator_faults(config: Any, estimator: Any) -> list[str]:
    """A critic and its discounts beside an estimator that compares the responses of a prompt."""
    algorithm = config.algorithm
    found = [
        f"algorithm.{key}={algorithm[key]:g}: {estimator.name} has one outcome a row and does not discount; leave it "
        f"at 1"
        for key in ("gamma", "lam")
        if algorithm.get(key, 1.0) != 1.0
    ]
    if config.critic.get("enable", None):
        found.append(
            f"critic.enable=true: {estimator.name} reads no values, the critic would be trained for nothing; leave it "
            f"out"
        )
    return [*found, *outcome_faults(config, estimator)]


def outcome_faults(config: Any, estimator: Any) -> list[str]:
    """A KL in the reward of an estimator that tells right from wrong by the reward's sign."""
    algorithm = config.algorithm
    if not algorithm.get("use_kl_in_reward", False):
        return []
    try:
        hyper = estimator.resolve(algorithm)
    except ValueError:
        return []  # a fault of its own
    if not estimator.reads_sign(**hyper):
        return []
    which = f"{estimator.name} with failed=incorrect" if "failed" in hyper else estimator.name
    return [
        f"algorithm.use_kl_in_reward=true: {which} takes a reward above 0 for a right answer, and the KL moves rewards "
        f"across 0; set it to false and use {ACTOR}.use_kl_loss=true"
    ]


def trainer_faults(config: Any) -> list[str]:
    """What verl's trainer itself would leave out, without which our methods would get less than they need."""
    found = []
    if not config.trainer.get("use_v1", True):
        found.append(
            "trainer.use_v1=false: verl's old trainer hands neither entropies nor segments to a loss or an estimator; "
            "set it to true"
        )
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    if algorithm.get("use_pf_ppo", False):
        found.append("algorithm.use_pf_ppo=true: not read by verl's V1 trainers; leave it out")
    found += [
        f"{ACTOR}.{key}=true: not read by verl's V1 trainers; leave it out"
        for key in ("use_prefix_grouper", "calculate_sum_pi_squared")
        if actor.get(key, False)
    ]
    return found


def fused_faults(config: Any, methods: Sequence[Any]) -> list[str]:
    """Fused kernels that would hand entropies over in less than float32, with chunking or without."""
    from verl_ext.checks import fitness
    from verl_ext.sizing.layout import megatron

    model = config.actor_rollout_ref.model
    if not model.get("use_fused_kernels", False) or megatron(config):
        return []
    backend = (model.get("fused_kernel_options", None) or {}).get("impl_backend", None)
    engine = config.actor_rollout_ref.actor.fsdp_config
    dtype = (engine.get("mixed_precision", None) or {}).get("param_dtype", "bf16")
    if backend != "torch" or dtype in fitness.FLOAT32:
        return []
    readers = [method.name for method in methods if entropies_of_the_actor(config) & set(read_by(config, method))]
    if not readers:
        return []
    return [
        f"{MODEL}.use_fused_kernels=true: verl's torch kernel rounds entropies to {dtype}, which "
        f"{' and '.join(sorted(set(readers)))} reads; set it to false, or "
        f"{MODEL}.fused_kernel_options.impl_backend=triton"
    ]


def entropies_of_the_actor(config: Any) -> set[str]:
    """Fields of the token context that the actor's forward passes fill with entropies."""
    from verl_ext.rollout import source

    try:
        provider = source.resolve(config).provider
    except ValueError:
        provider = "actor"  # what is wrong there is a fault of its own
    return {"entropy", "old_entropy"} if provider == "actor" else {"entropy"}


def read_by(config: Any, method: Any) -> tuple[str, ...]:
    """Fields that the method cannot do without."""
    from verl_ext import plugin

    loss = isinstance(method, plugin.PolicyLoss)
    node = config.actor_rollout_ref.actor.policy_loss if loss else config.algorithm
    return tuple(method.needed(node))


def actor_default(key: str) -> Any:
    """verl's default of a key of the actor."""
    from verl.workers.config import ActorConfig

    return next(field.default for field in dataclasses.fields(ActorConfig) if field.name == key)


def verls_loss_fields() -> tuple[Any, ...]:
    """The fields of verl's own configuration of losses."""
    from verl.workers.config import PolicyLossConfig

    return dataclasses.fields(PolicyLossConfig)

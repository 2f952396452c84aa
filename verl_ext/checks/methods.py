"""Every fault of a configuration that concerns a loss or estimator, and what surrounds it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from verl_ext.checks import silent, unread
from verl_ext.composing.identity import CLASS, LOSS
from verl_ext.composing.preset import Preset
from verl_ext.composing.preset import faults as preset_faults
from verl_ext.hyper import nearest
from verl_ext.rollout import source
from verl_ext.run import keys
from verl_ext.run import settings as run_settings
from verl_ext.run.guards import configuration as guards


def faults(config: Any, preset: Preset | None = None) -> list[str]:
    """Every fault of a composed trainer configuration, as sentences; empty when there is none.

    Args:
        config: verl's.
        preset: what was chosen, where that is known; the configuration must be its method.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    actor = config.actor_rollout_ref.actor
    loss = actor.policy_loss.get("loss_mode", "vanilla")
    estimator = str(config.algorithm.adv_estimator)
    found = []
    if loss not in POLICY_LOSS_REGISTRY:
        hint = nearest(loss, POLICY_LOSS_REGISTRY)
        found.append(f"actor_rollout_ref.actor.policy_loss.loss_mode={loss}: no such policy loss{hint}")
    if estimator not in ADV_ESTIMATOR_REGISTRY:
        found.append(
            f"algorithm.adv_estimator={estimator}: no such estimator{nearest(estimator, ADV_ESTIMATOR_REGISTRY)}"
        )
    of_preset = preset_faults(config, preset, found)
    found += of_preset
    found += [fault for fault in policy_loss_faults(actor.policy_loss, loss) if not same_class(fault, of_preset)]
    found += estimator_faults(config, estimator)
    found += source.faults(config)
    found += run_settings.faults(config)
    found += [fault for fault in method_faults(config, loss, estimator) if not same_key(fault, of_preset)]
    found += ignored(config)
    found += guards.faults(config)
    found += keys.faults(config)
    found += logger_faults(config)
    return found


def ignored(config: Any) -> list[str]:
    """Settings that would be ignored, or that are silently wrong, as sentences."""
    return [*silent.faults(config), *unread.faults(config)]


def same_key(fault: str, told: Iterable[str]) -> bool:
    """Whether a fault begins with a key that another one has named."""
    return any(f"{fault.partition('=')[0]}=" in other for other in told)


def same_class(fault: str, told: Iterable[str]) -> bool:
    """Whether a fault says that class and loss do not belong together, where another one has named either key."""
    about = "loss_mode=" in fault or "_target_=" in fault
    return (
        about
        and fault.startswith("actor_rollout_ref.actor.policy_loss: ")
        and any(f"{key}=" in other for key in (LOSS, CLASS) for other in told)
    )


def logger_faults(config: Any) -> list[str]:
    """Loggers that verl does not have; it would say so after all models are loaded."""
    from verl.utils.tracking import Tracking

    given = config.trainer.get("logger", None) or ()
    names = [given] if isinstance(given, str) else list(given)
    # verl takes `tracking` for `wandb`.
    known = (*Tracking.supported_backend, "tracking")
    return [f"trainer.logger={name}: no such logger{nearest(str(name), known)}" for name in names if name not in known]


def policy_loss_faults(policy_loss: Any, loss: str) -> list[str]:
    """Faults of the hyper-parameters: unknown names, values out of range, a class that belongs to another loss."""
    import dataclasses

    from hydra.errors import InstantiationException
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config.actor import PolicyLossConfig

    from verl_ext import plugin
    from verl_ext.hyper import one_each

    where = "actor_rollout_ref.actor.policy_loss"
    method = plugin.POLICY_LOSSES.get(loss)
    known = [field.name for field in dataclasses.fields(PolicyLossConfig)]
    extra = [str(key) for key in policy_loss if key not in known and key != "_target_"]
    if method is not None and extra and str(policy_loss.get("_target_", "")).endswith(".PolicyLossConfig"):
        return [f"{where}: {', '.join(extra)} need {where}._target_={method.config_path}"]
    try:
        omega_conf_to_dataclass(policy_loss)
    except InstantiationException as error:
        # An unknown loss is a fault of its own; that the class belongs to another one follows from it.
        return [fault for fault in one_each(error.__cause__ or error) if method or "loss_mode=" not in fault]
    return []


def estimator_faults(config: Any, estimator: str) -> list[str]:
    """Faults of the keys under ``algorithm.<estimator>`` for an estimator of ours."""
    from verl_ext import plugin
    from verl_ext.hyper import one_each

    if estimator not in plugin.ESTIMATORS:
        return []
    try:
        plugin.ESTIMATORS[estimator].resolve(config.algorithm)
    except ValueError as error:
        return one_each(error)
    return []


def method_faults(config: Any, loss: str, estimator: str) -> list[str]:
    """Faults of what surrounds one of our methods: aggregation, and where its token data would come from."""
    from verl_ext import plugin

    found = []
    actor = config.actor_rollout_ref.actor
    method = plugin.POLICY_LOSSES.get(loss)
    if method is not None and actor.loss_agg_mode not in method.aggregations:
        found.append(
            f"actor_rollout_ref.actor.loss_agg_mode={actor.loss_agg_mode}: {loss} aggregates with "
            f"{' or '.join(method.aggregations)} only"
        )
    users: dict[str, list[str]] = {}
    if method is not None:
        found += method.setting_faults(actor)
        for field in method.needed(actor.policy_loss):
            users.setdefault(field, []).append(f"{loss} (loss)")
    if estimator in plugin.ESTIMATORS:
        for field in plugin.ESTIMATORS[estimator].needed(config.algorithm):
            users.setdefault(field, []).append(f"{estimator} (estimator)")
    found += [
        f"{fault}, which {' and '.join(users[field])} needs" for field, fault in source.absent(config) if field in users
    ]
    if estimator in plugin.ESTIMATORS and not config.algorithm.get("norm_adv_by_std_in_grpo", True):
        found.append(f"algorithm.norm_adv_by_std_in_grpo=False: the {estimator} estimator always divides by the spread")
    return found

"""Checks in the driver, before Ray starts: every fault of the configuration that concerns a loss or estimator."""

from __future__ import annotations

import copy
import difflib
import functools
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from verl_ext.bridge import compatibility
from verl_ext.presets import choice
from verl_ext.presets.identity import CLASS, LOSS
from verl_ext.rollout import source
from verl_ext.run import settings as run_settings
from verl_ext.run.guards import configuration as guards
from verl_ext.run_report import keys


class ConfigError(ValueError):
    """The configuration asks for something that cannot run; the message lists every fault found."""


def bind(config_module: ModuleType) -> None:
    """Called when ``verl.utils.config`` has been imported: check before verl's own ``validate_config``."""
    original = config_module.validate_config

    @functools.wraps(original)
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> Any:
        from verl_ext import reward_probe
        from verl_ext.bridge import probe
        from verl_ext.train import checks

        preset, strays = choice.of_this_process(), named(config)
        found = checks.own_findings(copy.deepcopy(config), True, run_settings.ours(config), preset)
        tell(checks.Findings([*strays, *found.faults], found.notes))
        result = original(config, *args, **kwargs)
        if preset is not None:
            sys.stdout.write(f"verl_ext.preset {preset.name}; changed: {preset.summary(config) or 'nothing'}\n")
        if found.complete:
            tell(reward_probe.findings(config))
        probe.arrange(config)
        return result

    config_module.validate_config = validate_config  # type: ignore[attr-defined]


def tell(found: Any) -> None:
    """Print the notes.

    Raises:
        ConfigError: there are faults.
    """
    for note in found.notes:
        sys.stderr.write(f"verl_ext: note: {note}\n")
    if found.faults:
        raise ConfigError("the configuration cannot run:\n" + "\n".join(f"  - {fault}" for fault in found.faults))


def named(config: Any) -> list[str]:
    """Give a run that chooses one of our groups a name of its own; what is wrong with the folder that follows from it.

    Here, because verl's own entry point composes without us.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf.errors import OmegaConfBaseException

    from verl_ext.bridge.search_path import GROUPS, hydra_name
    from verl_ext.run import name as run_name
    from verl_ext.run.checkpoint.choice import say

    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    if not {hydra_name(group) for group in GROUPS} & set(hydra.runtime.choices):
        return []
    try:
        if run_name.give(config, hydra.runtime.choices, hydra.overrides.task):
            trainer = config.trainer
            say(f"this run is {trainer.project_name}/{trainer.experiment_name}, kept in {trainer.default_local_dir}")
        return run_name.folder_faults(config, hydra.runtime.choices, hydra.overrides.task)
    except OmegaConfBaseException:
        return []  # a value that is missing or cannot be resolved, which the checks tell


def faults(config: Any, preset: choice.Preset | None = None) -> list[str]:
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
    of_preset = choice.faults(config, preset, found)
    found += of_preset
    found += [fault for fault in policy_loss_faults(actor.policy_loss, loss) if not same_class(fault, of_preset)]
    found += estimator_faults(config, estimator)
    found += source.faults(config)
    found += run_settings.faults(config)
    found += [fault for fault in method_faults(config, loss, estimator) if not same_key(fault, of_preset)]
    found += compatibility.faults(config)
    found += guards.faults(config)
    found += keys.faults(config)
    found += logger_faults(config)
    return found


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


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or the list of what there is."""
    names = [str(getattr(key, "value", key)) for key in known]
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is: {', '.join(sorted(names))}"


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
        return [f"{where}: {', '.join(extra)} need {where}._target_=verl_ext.config.{method.config_class}"]
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
        for field in needs(method, actor.policy_loss):
            users.setdefault(field, []).append(f"{loss} (loss)")
    if estimator in plugin.ESTIMATORS:
        for field in needs(plugin.ESTIMATORS[estimator], config.algorithm):
            users.setdefault(field, []).append(f"{estimator} (estimator)")
    found += [f"{fault}, which {' and '.join(users[field])} needs" for field, fault in absent(config) if field in users]
    if estimator in plugin.ESTIMATORS and not config.algorithm.get("norm_adv_by_std_in_grpo", True):
        found.append(f"algorithm.norm_adv_by_std_in_grpo=False: the {estimator} estimator always divides by the spread")
    return found


def absent(config: Any) -> list[tuple[str, str]]:
    """Token data that no part of this configuration provides, each with the setting at fault."""
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    found = [
        ("old_entropy", f"{obstacle} (in bypass mode they come from the rollout)") for obstacle in source.unmet(config)
    ]
    if not (actor.get("calculate_entropy", False) or actor.get("entropy_coeff", 0)):
        found.append(
            (
                "entropy",
                "actor_rollout_ref.actor.calculate_entropy=false: set it to true to have the entropies of the current "
                "policy",
            )
        )
    if not (actor.get("use_kl_loss", False) or algorithm.get("use_kl_in_reward", False)):
        found.append(
            (
                "ref_log_prob",
                "actor_rollout_ref.actor.use_kl_loss=false: set it to true (kl_loss_coef may be 0) to have the "
                "reference policy's log-probabilities",
            )
        )
    return found


def needs(method: Any, node: Any) -> tuple[str, ...]:
    """Token data that the method needs with these hyper-parameters; none where they are themselves at fault."""
    try:
        return method.needs(**method.resolve(node))
    except ValueError:
        return ()

"""Where the driver is caught before Ray starts: the checks, the run's name, and what every process is to load."""

from __future__ import annotations

import copy
import functools
import sys
from types import ModuleType
from typing import Any

from verl_ext import modules
from verl_ext.composing import preset as choice
from verl_ext.composing.errors import ConfigError
from verl_ext.run import settings as run_settings


def bind(config_module: ModuleType) -> None:
    """Called when ``verl.utils.config`` has been imported: check before verl's own ``validate_config``."""
    original = config_module.validate_config

    @functools.wraps(original)
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> Any:
        from verl_ext import reward_probe
        from verl_ext.bridge import probe
        from verl_ext.checks import collecting as checks

        preset, strays = choice.of_this_process(), named(config)
        found = checks.own_findings(copy.deepcopy(config), True, run_settings.ours(config), preset)
        tell(checks.Findings([*strays, *found.faults], found.notes))
        modules.hand_on(config)
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

    from verl_ext.config_groups import GROUPS, hydra_name
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

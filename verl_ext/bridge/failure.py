"""Make a plugin that failed to load loud, although verl hides exceptions of its plugins."""

from __future__ import annotations

import functools
import sys
import traceback
from types import ModuleType
from typing import Any

NAME = "verl_ext"
PREFIXES = ("verl_ext.",)


def announce(error: Exception) -> None:
    """Say on stderr that the plugin did not load, and refuse any configuration that needs it."""
    text = "".join(traceback.format_exception_only(error)).strip()
    sys.stderr.write(f"{NAME}: the plugin failed to load and none of its methods is available: {text}\n")

    import wrapt

    def refuse(config_module: ModuleType) -> None:
        original = config_module.validate_config

        @functools.wraps(original)
        def validate_config(config: Any, *args: Any, **kwargs: Any) -> Any:
            if asks_for_us(config):
                raise RuntimeError(
                    f"{NAME}: the configuration needs this plugin, which failed to load: {text}"
                ) from error
            return original(config, *args, **kwargs)

        config_module.validate_config = validate_config  # type: ignore[attr-defined]

    wrapt.register_post_import_hook(refuse, "verl.utils.config")


def asks_for_us(config: Any) -> bool:
    """Whether a resolved trainer configuration names a policy loss or an estimator that verl does not have."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    policy_loss = config.actor_rollout_ref.actor.policy_loss
    return (
        str(policy_loss.get("_target_", "")).startswith(PREFIXES)
        or policy_loss.get("loss_mode", "vanilla") not in POLICY_LOSS_REGISTRY
        or str(config.algorithm.adv_estimator) not in ADV_ESTIMATOR_REGISTRY
    )

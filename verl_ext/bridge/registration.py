"""Put the methods into verl's registries as soon as verl has them."""

from __future__ import annotations

from types import ModuleType


def bind(core_algos: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.core_algos`` has been imported."""
    from verl_ext import modules, plugin

    plugin.register()
    modules.load_named()

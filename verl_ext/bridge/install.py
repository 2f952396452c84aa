"""Arrange everything that the plugin changes in verl, each piece when verl imports the module concerned."""

from __future__ import annotations

import wrapt

from verl_ext.bridge import versions
from verl_ext.platform import cpu, patches

_installed = False


def install() -> None:
    """Install the plugin in this process; harmless when called again."""
    global _installed
    if _installed:
        return
    # Before the rest, which imports verl where nobody has: verl loads its plugins then, and comes here again.
    _installed = True
    try:
        _install()
    except BaseException:
        _installed = False
        raise


def _install() -> None:
    versions.check()
    cpu.register()
    if cpu.choose_from_command_line():
        patches.install()
    for module, hook in HOOKS:
        wrapt.register_post_import_hook(_lazily(hook), module)
    _add_config_search_path()


# verl's module -> our function that binds to it. The functions live in modules that import torch and verl, so they
# are named rather than imported.
HOOKS = (
    ("verl.trainer.ppo.core_algos", "verl_ext.bridge.registration:bind"),
    ("verl.workers.engine_workers", "verl_ext.bridge.policy_loss:bind"),
    ("verl.trainer.distillation.losses", "verl_ext.bridge.policy_loss:bind"),
    ("verl.trainer.ppo.v1.trainer_base", "verl_ext.bridge.controller:bind"),
    ("verl.utils.config", "verl_ext.bridge.driver:bind"),
    ("verl.workers.rollout.llm_server", "verl_ext.bridge.rollout_server:bind_manager"),
    ("verl.workers.rollout.vllm_rollout.vllm_async_server", "verl_ext.bridge.rollout_server:bind_server"),
    ("verl.experimental.agent_loop.agent_loop", "verl_ext.bridge.agent_loop:bind"),
    ("verl.trainer.ppo.padding_utils", "verl_ext.bridge.agent_loop:bind_padding"),
    ("verl.protocol", "verl_ext.bridge.watchdog:bind_process"),
    ("transfer_queue", "verl_ext.bridge.watchdog:bind_queue"),
    ("verl.trainer.ppo.v1.trainer_base", "verl_ext.bridge.watchdog:bind_trainer"),
    ("verl.trainer.ppo.v1.trainer_sync", "verl_ext.bridge.watchdog:bind_timer"),
    ("verl.trainer.ppo.v1.trainer_colocate_async", "verl_ext.bridge.watchdog:bind_timer"),
    ("verl.trainer.ppo.v1.trainer_separate_async", "verl_ext.bridge.watchdog:bind_timer"),
    ("verl.trainer.ppo.v1.replay_buffer", "verl_ext.bridge.watchdog:bind_buffer"),
    ("verl.workers.engine.fsdp.transformer_impl", "verl_ext.bridge.watchdog:bind_engine"),
    ("verl.workers.engine.megatron.transformer_impl", "verl_ext.bridge.watchdog:bind_engine"),
    ("verl.workers.rollout.vllm_rollout.vllm_async_server", "verl_ext.bridge.watchdog:bind_server"),
    ("verl.trainer.ppo.v1.trainer_base", "verl_ext.bridge.checkpoint:bind"),
    ("verl.workers.engine_workers", "verl_ext.bridge.checkpoint:bind_workers"),
    ("verl.utils.config", "verl_ext.bridge.checkpoint:bind_driver"),
    ("verl.trainer.ppo.v1.trainer_base", "verl_ext.bridge.token_export:bind"),
    ("verl.workers.engine_workers", "verl_ext.bridge.token_export:bind_workers"),
    ("verl.trainer.distillation.losses", "verl_ext.bridge.token_export:bind_loss"),
    ("verl.trainer.ppo.v1.trainer_base", "verl_ext.bridge.guards:bind"),
    ("verl.experimental.agent_loop.agent_loop", "verl_ext.bridge.guards_sessions:bind_agent_loop"),
    ("verl.utils.tracking", "verl_ext.bridge.tracking:bind"),
)


def _lazily(target: str):  # type: ignore[no-untyped-def]
    def hook(module: object) -> None:
        import importlib

        home, name = target.split(":")
        getattr(importlib.import_module(home), name)(module)

    return hook


def _add_config_search_path() -> None:
    """Let Hydra find our config groups from any directory, for verl's own entry point as well."""
    from hydra.core.plugins import Plugins

    from verl_ext.composing.search_path import VerlExtSearchPath

    Plugins.instance().register(VerlExtSearchPath)

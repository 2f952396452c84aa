"""The CPU platform: verl's real trainer, FSDP engine and vLLM server on a machine without an accelerator.

Chosen with ``VERL_PLATFORM=cpu``, or by itself where no accelerator is found and the command line asks for
the ``cpu`` backend (``+backend=cpu`` or ``trainer.device=cpu``). On any other platform nothing in this package
touches verl or vLLM.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLATFORM = "cpu"

# Arguments of verl's command line that mean "run on the CPU".
CPU_ARGUMENTS = frozenset({"backend=cpu", "trainer.device=cpu"})


def cpu_env(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment that a run on the CPU needs, in the driver and in every Ray worker.

    Values already set in ``environ`` (default: this process's) are kept.

    Example:
        >>> cpu_env({})["VERL_PLATFORM"]
        'cpu'
    """
    wanted = {
        "VERL_PLATFORM": PLATFORM,
        # GiB of key-value cache; vLLM's own default takes half of the machine.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Ray hides accelerators from actors that ask for none; there are none to hide, and the override
        # would blank a variable that verl reads back.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Ranks of one machine talk over loopback: without it gloo looks up the host's name, which a
        # container or a laptop off the network often cannot resolve.
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environ = os.environ if environ is None else environ
    return {key: environ.get(key, value) for key, value in wanted.items()}


def chosen(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process has been told to run on the CPU platform."""
    environ = os.environ if environ is None else environ
    return environ.get("VERL_PLATFORM", "").strip().lower() == PLATFORM


def choose_from_command_line(argv: list[str] | None = None) -> bool:
    """Choose the CPU platform when the command line asks for it and no accelerator exists.

    verl fixes its platform while it is being imported, before Hydra has read the configuration, so the command
    line is all there is to look at in the driver. Ray's workers inherit the environment set here.

    Returns:
        Whether the CPU platform is chosen afterwards.
    """
    if "VERL_PLATFORM" in os.environ:
        return chosen()
    argv = sys.argv[1:] if argv is None else argv
    asked = any(argument.lstrip("+") in CPU_ARGUMENTS for argument in argv)
    if asked and not _accelerator_exists():
        os.environ.update(cpu_env())
    return chosen()


def _accelerator_exists() -> bool:
    import torch

    return bool(torch.accelerator.is_available())


def register() -> None:
    """Make ``cpu`` a platform that ``VERL_PLATFORM`` can name."""
    from verl.plugin.platform.platform_manager import PlatformRegistry

    if PlatformRegistry.get(PLATFORM) is None:
        PlatformRegistry.register(PLATFORM)(_platform_class())


class _CpuDeviceModule:
    """``torch.cpu`` with the memory and seed functions that verl expects of ``torch.<device>``."""

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch.cpu, name)

    def memory_allocated(self, *_: Any) -> int:
        return 0

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def nothing(self, *_: Any, **__: Any) -> None:
        """There is no device whose cache, queue or counters could be touched."""

    empty_cache = ipc_collect = set_device = reset_peak_memory_stats = nothing

    def get_device_name(self, *_: Any) -> str:
        return PLATFORM

    def manual_seed(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, *_: Any) -> Any:
        import torch

        return torch.get_rng_state()

    def set_rng_state(self, state: Any, *_: Any) -> None:
        import torch

        torch.set_rng_state(state)


def _platform_class() -> type:
    from verl.plugin.platform.platform_base import PlatformBase

    class PlatformCPU(PlatformBase):
        """verl's platform interface answered for a machine without an accelerator.

        Ray's ``GPU`` resource stands for "one training process": the backend config asks ``ray.init`` for as many
        as ``trainer.n_gpus_per_node``.
        """

        device_name = PLATFORM
        vendor_name = PLATFORM

        @property
        def device_module(self) -> Any:
            return _CpuDeviceModule()

        def is_available(self) -> bool:
            return True

        def is_platform_available(self, use_smi_check: bool = False) -> bool:
            # Never picked by probing: a CPU-only Ray actor of a GPU job also sees no accelerator.
            return chosen()

        def current_device(self) -> Any:
            # verl passes it to Tensor.to(); an index would mean an accelerator.
            return PLATFORM

        def device_count(self) -> int:
            return 1

        def set_device(self, device_index: int) -> None:
            pass

        def synchronize(self, device_index: int | None = None) -> None:
            pass

        def manual_seed(self, seed: int) -> None:
            self.device_module.manual_seed(seed)

        manual_seed_all = manual_seed

        def set_allocator_settings(self, settings: str) -> None:
            pass

        def empty_cache(self) -> None:
            pass

        def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "CUDA_VISIBLE_DEVICES"

        @contextmanager
        def nvtx_range(self, msg: str) -> Iterator[None]:
            yield

        def profiler_start(self) -> None:
            pass

        def profiler_stop(self) -> None:
            pass

        def ray_resource_name(self) -> str:
            return "GPU"

        def ray_noset_envvars(self) -> list[str]:
            return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

        def is_ipc_supported(self) -> bool:
            return False

        def rollout_env_vars(self) -> dict[str, str]:
            return cpu_env()

        def cudart(self) -> None:
            return None

    return PlatformCPU

"""The CPU platform: when it is chosen, and that verl finds in it what it asks a platform for."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.platform import programs
from verl_ext.platform import cpu


def test_cpu_env_keeps_what_is_set_and_adds_the_rest() -> None:
    found = cpu.cpu_env({"VLLM_CPU_KVCACHE_SPACE": "7", "HOME": "/somewhere"})
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert found["VERL_PLATFORM"] == "cpu"
    assert found["GLOO_SOCKET_IFNAME"] == "lo"
    assert "HOME" not in found
    assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize(("value", "expected"), [("cpu", True), (" CPU ", True), ("nvidia", False), ("", False)])
def test_chosen_reads_the_variable_as_verl_does(value: str, expected: bool) -> None:
    assert cpu.chosen({"VERL_PLATFORM": value}) is expected
    assert cpu.chosen({}) is False


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing about platforms, and is put back afterwards."""
    for name in cpu.cpu_env({}):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(cpu, "_accelerator_exists", lambda: False)
    return monkeypatch


@pytest.mark.parametrize("argument", ["+backend=cpu", "backend=cpu", "++backend=cpu", "trainer.device=cpu"])
def test_the_command_line_chooses_the_cpu(clean: pytest.MonkeyPatch, argument: str) -> None:
    clean.setattr(sys, "argv", ["main_ppo", "+algo=espo", argument])
    assert cpu.choose_from_command_line() is True
    assert os.environ["VERL_PLATFORM"] == "cpu"  # Ray's workers inherit it
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.parametrize("arguments", [[], ["+algo=espo"], ["trainer.device=cuda"], ["x.backend=cpu"]])
def test_any_other_command_line_changes_nothing(clean: pytest.MonkeyPatch, arguments: list[str]) -> None:
    before = dict(os.environ)
    assert cpu.choose_from_command_line(arguments) is False
    assert dict(os.environ) == before


def test_a_machine_with_an_accelerator_is_left_alone(clean: pytest.MonkeyPatch) -> None:
    clean.setattr(cpu, "_accelerator_exists", lambda: True)
    assert cpu.choose_from_command_line(["+backend=cpu"]) is False
    assert "VERL_PLATFORM" not in os.environ


def test_an_explicit_platform_wins_over_the_command_line(clean: pytest.MonkeyPatch) -> None:
    os.environ["VERL_PLATFORM"] = "nvidia"
    assert cpu.choose_from_command_line(["+backend=cpu"]) is False
    assert os.environ["VERL_PLATFORM"] == "nvidia"
    os.environ["VERL_PLATFORM"] = "cpu"
    assert cpu.choose_from_command_line([]) is True


def test_registering_twice_keeps_the_first_class() -> None:
    from verl.plugin.platform.platform_manager import PlatformRegistry

    cpu.register()
    first = PlatformRegistry.get("cpu")
    cpu.register()
    assert PlatformRegistry.get("cpu") is first is not None


def test_the_platform_answers_everything_that_verls_interface_asks() -> None:
    from verl.plugin.platform.platform_base import PlatformBase

    platform = cpu._platform_class()()  # an abstract method left out would raise here
    assert platform.device_name == "cpu"
    assert platform.communication_backend_name() == "gloo"
    assert torch.zeros(1).to(platform.current_device()).device.type == "cpu"
    assert platform.is_ipc_supported() is False
    for name, ours in inspect.getmembers(type(platform), inspect.isfunction):
        upstream = getattr(PlatformBase, name, None)
        if inspect.isfunction(upstream) and not name.startswith("__"):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(upstream).parameters), name


def test_it_is_never_picked_by_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU-only Ray actor of a GPU job sees no accelerator either."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert cpu._platform_class()().is_platform_available(use_smi_check=True) is False


def verl_uses_of_the_device_module() -> set[str]:
    """Names that verl's FSDP and vLLM paths look up in `get_torch_device()`."""
    import verl

    root = Path(verl.__file__).parent
    places = [
        "workers/engine/fsdp",
        "workers/engine_workers.py",
        "workers/rollout/vllm_rollout",
        "utils/distributed.py",
    ]
    places += [
        "utils/fsdp_utils.py",
        "utils/memory_utils.py",
        "utils/profiler/performance.py",
        "utils/checkpoint",
    ]
    files = [
        file for place in places for file in ([root / place] if place.endswith("py") else (root / place).rglob("*.py"))
    ]
    text = "\n".join(file.read_text() for file in files)
    return set(re.findall(r"get_torch_device\(\)\.(\w+)", text))


def test_the_device_module_has_what_verl_looks_up_in_it() -> None:
    module = cpu._platform_class()().device_module
    used = verl_uses_of_the_device_module()
    assert len(used) >= 5, used
    # Both belong to GPU memory tools that no training path calls by itself.
    optional = {"memory", "set_per_process_memory_fraction"}
    assert sorted(name for name in used - optional if not hasattr(module, name)) == []


def test_memory_is_the_machines_and_seeds_reach_torch() -> None:
    module = cpu._platform_class()().device_module
    free, total = module.mem_get_info()
    assert 0 < free <= total
    assert module.memory_allocated() == module.max_memory_reserved(0) == 0
    assert module.empty_cache() is None
    with torch.random.fork_rng(devices=[]):
        module.manual_seed(5)
        state = module.get_rng_state()
        first = torch.rand(3)
        module.set_rng_state(state)
        assert torch.equal(torch.rand(3), first)
        torch.manual_seed(5)
        assert torch.equal(torch.rand(3), first)


CHOSEN = """
import json, sys
sys.argv = ["main_ppo", *sys.argv[1:]]
import verl
from verl.plugin.platform.platform_manager import get_platform
from verl.utils.device import get_device_name, get_nccl_backend, get_torch_device
loaded = [name for name in sys.modules if name in ("vllm", "verl.workers", "torch.distributed.fsdp", "ray")]
print("RESULT " + json.dumps([get_platform().device_name, get_device_name(), get_nccl_backend(), loaded]))
"""


def test_verl_itself_runs_on_the_platform_that_the_command_line_chose() -> None:
    found = programs.run("-c", CHOSEN, "+algo=espo", "+backend=cpu").result()
    assert found[:3] == ["cpu", "cpu", "gloo"], json.dumps(found)

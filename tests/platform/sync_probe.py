"""Run as a program: sync perturbed weights into a real vLLM twice and compare log-probs with transformers.

Usage: python sync_probe.py tiny_dense|tiny_moe tied|untied. Prints RESULT and one JSON object. A program of
its own because vLLM wants a fresh process for each engine.

PROBE_WITHOUT=NAME,... in the environment makes these functions of verl_ext.platform.vllm_weights do nothing,
so that a test can show what the engine is like without them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
from typing import Any

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VERL_PLATFORM="cpu", VLLM_CPU_KVCACHE_SPACE="1")

NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


def max_difference(llm: Any, model: Any, prompts: list[list[int]]) -> float:
    """Largest |log p_vllm - log p_transformers| over sampled tokens, temperature 1."""
    import torch
    from vllm import SamplingParams

    worst = 0.0
    settings = SamplingParams(temperature=1.0, max_tokens=12, logprobs=0, seed=0, ignore_eos=True)
    for prompt in prompts:
        output = llm.generate({"prompt_token_ids": prompt}, settings, use_tqdm=False)[0].outputs[0]
        ids = list(output.token_ids)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0].double()
        own = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]
        theirs = torch.tensor([step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)])
        worst = max(worst, float((own - theirs.double()).abs().max()))
    return worst


def sync(llm: Any, weights: list, left_out: str = "", forged: str = "") -> list[str]:
    """One sync through verl's own sender and receiver; the faults that are then found in the engine.

    Args:
        llm: the engine.
        weights: pairs of name and tensor, the actor's.
        left_out: a tensor that the actor neither sends nor knows of.
        forged: a tensor that reaches the engine with another value than the actor holds.
    """
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender

    from verl_ext.platform.fingerprint import digest
    from verl_ext.platform.weight_sync import differences

    sent = {name: (tuple(tensor.shape), digest(tensor)) for name, tensor in weights if name != left_out}
    stream = [(name, tensor + 1e-3 if name == forged else tensor) for name, tensor in weights if name != left_out]
    handle = f"ipc:///tmp/rl-colocate-zmq-{os.environ['VERL_RAY_JOB_ID']}-replica-0-rank-0.sock"
    sender = BucketedWeightSender(zmq_handle=handle, bucket_size_mb=1, use_shm=True)
    # A daemon: where the receiver fails, the program must end with its error, not wait for the sender.
    thread = threading.Thread(target=lambda: asyncio.run(sender.async_send_weights(iter(stream))), daemon=True)
    thread.start()
    llm.collective_rpc("update_weights_from_ipc", kwargs={"use_shm": True})
    thread.join()
    shapes = {name: shape for name, (shape, _) in sent.items()}
    (answer,) = llm.collective_rpc("verl_ext_fingerprints", kwargs={"shapes": shapes})
    return differences(sent, answer)


def without(names: list[str]) -> None:
    from verl_ext.platform import vllm_weights

    for name in names:
        getattr(vllm_weights, name)  # a name that is not there must not pass for one that was taken out
        setattr(vllm_weights, name, lambda *_: None)


def main(kind: str, tied: bool) -> None:
    without([name for name in os.environ.get("PROBE_WITHOUT", "").split(",") if name])
    import torch
    import verl  # noqa: F401  (loads the plugin)
    from transformers import AutoModelForCausalLM
    from verl.workers.engine.fsdp.utils import unfuse_moe_params
    from vllm import LLM

    from verl_ext.toy.models import build_untrained

    os.environ["VERL_RAY_JOB_ID"] = f"test{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        build_untrained(kind, tied, folder, seed=0)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        llm = LLM(
            folder,
            dtype="float32",
            enforce_eager=True,
            max_model_len=128,
            worker_extension_cls="verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension",
        )
    prompts = [list(range(40, 40 + n)) for n in (3, 9, 17)]
    result: dict[str, Any] = {"before": max_difference(llm, model, prompts), "after": [], "faults": []}
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        weights = list(unfuse_moe_params(model.state_dict().items(), model.config.model_type))
        result["faults"] += sync(llm, weights)
        llm.reset_prefix_cache()
        result["after"].append(max_difference(llm, model, prompts))
    names = [name for name in (NORM, QUERY, EXPERT) if name in dict(weights)]
    result["left_out"] = {name: sync(llm, weights, left_out=name) for name in names}
    result["forged"] = {name: sync(llm, weights, forged=name) for name in names}
    result["in_the_end"] = sync(llm, weights)
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "tied")

"""Run as a program: sync perturbed weights into a real vLLM twice and compare its log-probs with transformers'.

Prints one JSON object. A program of its own because vLLM wants a fresh process for each engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VERL_PLATFORM="cpu", VLLM_CPU_KVCACHE_SPACE="1")


def max_difference(llm, model, prompts: list[list[int]]) -> float:
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


def sync(llm, weights: list, break_name: str | None = None) -> dict:
    """One sync through verl's own sender and receiver; what the engine then says about its weights."""
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender

    from verl_ext.platform.fingerprint import digest
    from verl_ext.platform.weight_sync import differences

    sent = {name: (tuple(tensor.shape), digest(tensor)) for name, tensor in weights}
    handle = "ipc:///tmp/rl-colocate-zmq-%s-replica-0-rank-0.sock" % os.environ["VERL_RAY_JOB_ID"]
    sender = BucketedWeightSender(zmq_handle=handle, bucket_size_mb=1, use_shm=True)
    stream = [(n, t) for n, t in weights if n != break_name]
    thread = threading.Thread(target=lambda: asyncio.run(sender.async_send_weights(iter(stream))))
    thread.start()
    llm.collective_rpc("update_weights_from_ipc", kwargs={"use_shm": True})
    thread.join()
    if break_name is not None:
        sent = {name: value for name, value in sent.items() if name != break_name}
    shapes = {name: shape for name, (shape, _) in sent.items()}
    (answer,) = llm.collective_rpc("verl_ext_fingerprints", kwargs={"shapes": shapes})
    return {"faults": differences(sent, answer)}


def main(kind: str, tied: bool) -> None:
    import torch
    import verl  # noqa: F401  (loads the plugin)
    from transformers import AutoModelForCausalLM
    from verl.workers.engine.fsdp.utils import unfuse_moe_params
    from vllm import LLM

    from verl_ext.demo.models import build_untrained

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
    result = {"before": max_difference(llm, model, prompts), "after": [], "faults": []}
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        weights = list(unfuse_moe_params(model.state_dict().items(), model.config.model_type))
        result["faults"] += sync(llm, weights)["faults"]
        llm.reset_prefix_cache()
        result["after"].append(max_difference(llm, model, prompts))
    missing = weights[-2][0] if tied else weights[3][0]
    with torch.no_grad():
        model.get_parameter(next(n for n, _ in model.named_parameters())).add_(0.1)
    result["missing"] = missing
    result["faults_when_missing"] = sync(llm, weights, break_name=missing)["faults"]
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "tied")

"""Whether the parts that only a GPU uses load and run at all."""

from __future__ import annotations

import importlib
from typing import Any

from verl_ext.gpu_check.outcome import CheckError, demand


def check(device: str) -> dict[str, Any]:
    """A matrix product, a Triton kernel, flash attention against torch's, and the imports."""
    import torch

    left = torch.randn(64, 64, device=device)
    demand(bool(torch.isfinite(left @ left).all()), f"a matrix product on {device} is not finite")
    figures: dict[str, Any] = {"imports": imports()}
    if device == "cuda":
        figures["triton"] = triton_runs()
        figures["flash_attention_difference"] = flash_attention_difference()
        demand(figures["flash_attention_difference"] < 0.02, f"flash-attn and torch differ: {figures}")
    return figures


def imports() -> list[str]:
    """verl and its trainer, vLLM, and the plugin, imported; all that cannot be is named at once."""
    found, faults = [], []
    for name in ("verl", "verl.trainer.main_ppo", "vllm", "verl_ext.vllm_plugin"):
        try:
            importlib.import_module(name)
            found.append(name)
        except Exception as error:  # an import may end with anything, and the next one is of interest all the same
            faults.append(f"{name}: {type(error).__name__}: {error}")
    if faults:
        raise CheckError("cannot be imported: " + "; ".join(faults))
    return found


def triton_runs() -> str:
    """Triton's version, after it has compiled and run our kernel once."""
    import torch
    import triton

    from verl_ext.rollout.kernels import tagged_entropies

    tagged_entropies(torch.zeros(2, 8, device="cuda"))
    torch.cuda.synchronize()
    return str(triton.__version__)


def flash_attention_difference() -> float:
    """Largest difference between flash-attn and torch's attention in float32, bfloat16 inputs."""
    import torch
    from flash_attn import flash_attn_func

    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(2, 64, 4, 32, device="cuda", generator=generator).bfloat16() for _ in range(3))
    query, key, value = (one.transpose(1, 2).float() for one in (q, k, v))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    return float((flash_attn_func(q, k, v, causal=True).float() - wanted).abs().max())

"""The Triton kernel of the rollout's entropies on the GPU, against float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verl_ext.gpu_check.outcome import demand
from verl_ext.rollout.payload import decode

ROWS = 16
# 8192 is the kernel's block: below, at, above and far above it. 151,936 is Qwen's.
VOCABULARIES = (2, 259, 8191, 8192, 8193, 32_000, 151_936)
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = 5e-5  # nats; sums of up to 151,936 terms in float32, in blocks


def check(device: str) -> dict[str, Any]:
    """Largest difference by vocabulary and type, nats; on the CPU that of the pass without Triton."""
    figures = {}
    for vocabulary in VOCABULARIES:
        for dtype in DTYPES:
            logits = rows(vocabulary).to(dtype)
            found = entropies(logits.to(device))
            difference = float((found - reference(logits)).abs().max())
            figures[f"{vocabulary} {str(dtype).removeprefix('torch.')}"] = difference
    worst = max(figures, key=lambda key: figures[key])
    demand(figures[worst] <= TOLERANCE, f"{worst}: off by {figures[worst]:.2g} nats, more than {TOLERANCE:g}")
    return {"largest_difference": figures[worst], "differences": figures}


def rows(vocabulary: int) -> Tensor:
    """[B, V] logits: some flat, some peaked, one with tokens that cannot be drawn."""
    generator = torch.Generator().manual_seed(vocabulary)
    scale = torch.linspace(0, 8, ROWS).unsqueeze(1)
    logits = torch.randn(ROWS, vocabulary, generator=generator) * scale
    logits[-1, 1:] = float("-inf")  # certainty: 0, not NaN
    logits[-2, : vocabulary // 2] = float("-inf")
    return logits


def reference(logits: Tensor) -> Tensor:
    """[B] entropies in float64, nats."""
    log_probs = logits.double().log_softmax(dim=-1)
    return -torch.where(log_probs.isinf(), 0.0, log_probs.exp() * log_probs).sum(dim=-1)


def entropies(logits: Tensor) -> Tensor:
    """[B] float64 of what the tap would send."""
    if logits.is_cuda:
        from verl_ext.rollout.kernels import tagged_entropies

        return torch.tensor(decode(tagged_entropies(logits).tolist()), dtype=torch.float64)
    from verl_ext.rollout import entropy

    return torch.tensor(decode(entropy.tagged_entropies(logits.float().log_softmax(-1)).tolist()), dtype=torch.float64)

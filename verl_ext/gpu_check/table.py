"""The checks, in the order in which they run: cheap ones first, as a later one rarely works where an earlier fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what `--only` takes.
        function: `module:function`, `(device) -> figures`; named, as each is imported in a process of its own.
        says: what it states, for the page and the table.
        limit_s: seconds after which its processes are ended and it has failed.
        gpus: how many it needs.
    """

    name: str
    function: str
    says: str
    limit_s: float
    gpus: int = 1

    def load(self) -> Callable[[str], dict[str, Any]]:
        """The function."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)


_HERE = "verl_ext.gpu_check"

CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check(
            "software",
            f"{_HERE}.software:check",
            "torch sees the GPU, Triton compiles and runs a kernel, flash-attn attends, verl and vLLM can be imported",
            300,
        ),
        Check(
            "losses",
            f"{_HERE}.methods:losses",
            "every loss with every option, in float32 on the GPU, with autocast to bfloat16 and without: value and "
            "gradient are those of float64 on the CPU",
            600,
        ),
        Check(
            "estimators",
            f"{_HERE}.methods:estimators",
            "every estimator with every option, in float32 on the GPU: the advantages of float64 on the CPU",
            300,
        ),
        Check(
            "conformance",
            f"{_HERE}.methods:conformance",
            "the conformance battery, each call of a loss or an estimator made on the GPU",
            1800,
        ),
        Check(
            "entropy_kernel",
            f"{_HERE}.kernel:check",
            "the Triton kernel of the rollout's entropies against float64, vocabularies of 2 to 151,936, float32 and "
            "bfloat16",
            300,
        ),
        Check(
            "remove_padding",
            f"{_HERE}.engine:remove_padding",
            "verl's FSDP engine gives the same loss and gradients with packed sequences and with padded ones",
            600,
        ),
        Check(
            "fused_kernels",
            f"{_HERE}.engine:fused_kernels",
            "verl's fused kernels, torch and Triton, give the loss and gradients of the plain pass",
            600,
        ),
        Check(
            "ulysses",
            f"{_HERE}.engine:ulysses",
            "two GPUs that share each sequence give the loss and gradients of one",
            600,
            gpus=2,
        ),
        Check(
            "entropies_v1",
            f"{_HERE}.rollout:v1",
            "vLLM's V1 runner returns the entropies and log-probs that transformers computes for the same tokens",
            900,
        ),
        Check(
            "entropies_v2",
            f"{_HERE}.rollout:v2",
            "vLLM's V2 runner does",
            900,
        ),
        Check(
            "weight_sync",
            f"{_HERE}.training:weight_sync",
            "three steps of verl's trainer at a great learning rate: after the weights went over by CUDA IPC, vLLM's "
            "log-probs and entropies are again the actor's",
            1200,
        ),
        Check(
            "training",
            f"{_HERE}.training:training",
            "twenty steps of the demo on the GPU, ESPO with entropies of the rollout: it ends by itself, every figure "
            "is finite, and the configured loss ran",
            1800,
        ),
    )
}


def unknown(names: list[str]) -> list[str]:
    """What is wrong with the names of checks, one sentence each."""
    return [f"--only {name}: no such check; there is: {', '.join(CHECKS)}" for name in names if name not in CHECKS]

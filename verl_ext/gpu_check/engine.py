"""verl's FSDP engine in two ways that have to agree: packed or padded, fused or plain, one GPU or two."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from verl_ext.gpu_check.engine_rank import Plan
from verl_ext.gpu_check.outcome import CheckError, SkipError, demand
from verl_ext.process import ProcessFamily, child_environment

# Of the norm of all gradients, and of the loss. bfloat16 rounds each layer to 8 bits, in another order.
LIMITS = {"fp32": 1e-4, "bf16": 0.05}
LIMIT_S = 240
LARGE = 2048


@dataclass(frozen=True)
class Pass:
    """What one plan gave: the loss, and the gradient of each parameter."""

    loss: float
    gradients: dict[str, Any]


def remove_padding(device: str) -> dict[str, Any]:
    """Packed against padded: in float32 with torch's attention, and in bfloat16 with flash attention."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="verl-ext-") as folder:
        plain = Plan(model(folder), device)
        figures["float32"] = compared(plain, replace(plain, remove_padding=True), folder)
        if device == "cuda" and find_spec("flash_attn"):
            flash = replace(plain, dtype="bf16", attention="flash_attention_2")
            figures["bfloat16, flash attention"] = compared(flash, replace(flash, remove_padding=True), folder)
        elif device == "cuda":
            figures["bfloat16, flash attention"] = "not made: flash-attn is not installed"
    return figures


def fused_kernels(device: str) -> dict[str, Any]:
    """verl's fused kernels against the plain pass, packed, in float32; Triton's needs a GPU.

    With tied embeddings: FSDP2 shards an output layer of its own apart, and verl 0.9.1 hands that shard to the kernel,
    which fails.
    """
    figures = {}
    with tempfile.TemporaryDirectory(prefix="verl-ext-") as folder:
        plain = Plan(model(folder, tied=True), device, remove_padding=True)
        for backend in ("torch", "triton") if device == "cuda" else ("torch",):
            figures[backend] = compared(plain, replace(plain, fused=backend), folder)
    return figures


def ulysses(device: str) -> dict[str, Any]:
    """Two ranks that share each sequence against one, in bfloat16 with flash attention, which verl wants for it."""
    if device != "cuda":
        raise SkipError("verl's sequence parallelism goes through flash attention, which needs GPUs")
    if not find_spec("flash_attn"):
        raise SkipError("flash-attn is not installed")
    with tempfile.TemporaryDirectory(prefix="verl-ext-") as folder:
        one = Plan(model(folder), device, "bf16", "flash_attention_2", remove_padding=True)
        return compared(one, replace(one, ulysses=2), folder)


def model(folder: str, tied: bool = False) -> str:
    """A tiny model with random weights; four attention heads, so that two ranks can share them."""
    from verl_ext.toy.models import build_untrained

    return str(build_untrained("tiny_dense", tied, Path(folder, "model"), seed=0))


def compared(one: Plan, other: Plan, folder: str) -> dict[str, float]:
    """Relative differences of two plans.

    Raises:
        CheckError: they differ by more than the limit of their type, or the gradients say nothing.
    """
    return difference(compute(one, folder), compute(other, folder), LIMITS[one.dtype])


def difference(first: Pass, second: Pass, limit: float) -> dict[str, float]:
    """Relative differences of loss and gradients."""
    demand(first.gradients.keys() == second.gradients.keys(), "the two passes have gradients of other parameters")
    squares = [0.0, 0.0]
    for name, value in first.gradients.items():
        squares[0] += float(value.double().square().sum())
        squares[1] += float((second.gradients[name].double() - value.double()).square().sum())
    demand(squares[0] > 0, "the gradient is zero, so that agreeing means nothing")
    found = {
        "loss": first.loss,
        "loss_difference": abs(second.loss - first.loss) / max(abs(first.loss), 1e-6),
        "gradient_difference": (squares[1] / squares[0]) ** 0.5,
    }
    demand(max(found["loss_difference"], found["gradient_difference"]) <= limit, f"{found}; the limit is {limit:g}")
    return found


def compute(plan: Plan, folder: str) -> Pass:
    """Start the plan's ranks, wait for them, and read what rank 0 wrote.

    Raises:
        CheckError: a rank failed, with the last that it said, or took too long.
    """
    import torch

    out = Path(folder, "pass.pt")
    out.unlink(missing_ok=True)
    ranks = []
    try:
        for rank, env in enumerate(environments(plan)):
            command = [sys.executable, "-m", "verl_ext.gpu_check.engine_rank", json.dumps(asdict(plan)), str(out)]
            ranks.append(ProcessFamily(command, child_environment(env), Path(folder, f"rank{rank}.log")))
        deadline = time.monotonic() + LIMIT_S
        while None in (statuses := [rank.poll() for rank in ranks]) and not any(statuses):
            demand(time.monotonic() < deadline, f"{plan}: still running after {LIMIT_S} s: {said(folder, 0)}")
            time.sleep(0.2)
    finally:
        for started in ranks:
            started.end()
    for rank, status in enumerate(statuses):
        if status:
            raise CheckError(f"{plan}: rank {rank} ended with status {status}: {said(folder, rank)}")
    return Pass(**torch.load(out, weights_only=True))


def environments(plan: Plan) -> list[dict[str, str]]:
    """What torch.distributed and verl read, for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(plan.ulysses),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if plan.device == "cpu":
        shared["VERL_PLATFORM"], shared["GLOO_SOCKET_IFNAME"] = "cpu", "lo"
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(plan.ulysses)]


def said(folder: str, rank: int) -> str:
    """The end of a rank's output."""
    return Path(folder, f"rank{rank}.log").read_text(encoding="utf-8", errors="replace")[-LARGE:]

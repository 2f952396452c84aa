"""Fingerprints of weights: what the actor sent against what the engine computes with.

A fingerprint is the BLAKE2b digest of a tensor's bytes. The actor names tensors as Hugging Face checkpoints do; vLLM
stacks some of them (q, k, v; gate, up; the experts of a layer), so the engine cuts its own parameters back into the
pieces the actor sent, and digests those.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STACKED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
EXPERT = re.compile(r"^(?P<mlp>.+)\.experts\.(?P<expert>\d+)\.(?P<part>gate|up|down)_proj\.weight$")


def digest(tensor: torch.Tensor) -> str:
    """Digest of a tensor's dtype, shape and bytes.

    Example:
        >>> import torch
        >>> digest(torch.zeros(2)) == digest(torch.zeros(2)), digest(torch.zeros(2)) == digest(torch.ones(2))
        (True, False)
    """
    import torch

    data = tensor.detach().cpu().contiguous()
    head = f"{data.dtype}{tuple(data.shape)}".encode()
    raw = data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b""
    return hashlib.blake2b(head + raw, digest_size=16).hexdigest()


def pieces(
    parameters: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor | None]:
    """The engine's own values for each tensor that was sent; None where the engine has no such parameter.

    Args:
        parameters: the engine's parameters, by vLLM's names.
        shapes: the shape of every tensor that the actor sent, by its Hugging Face name.
    """
    return {name: _piece(name, shape, parameters, shapes) for name, shape in shapes.items()}


def _piece(
    name: str,
    shape: tuple[int, ...],
    parameters: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> torch.Tensor | None:
    if name in parameters:
        # vLLM pads the vocabulary; the rows after the model's own are never read.
        value = parameters[name]
        return value[: shape[0]] if shape else value
    expert = EXPERT.match(name)
    if expert:
        return _expert_piece(expert, shape, parameters)
    for stacked, parts in STACKED.items():
        for position, part in enumerate(parts):
            if f".{part}." not in name:
                continue
            home = parameters.get(name.replace(f".{part}.", f".{stacked}."))
            before = [shapes.get(name.replace(f".{part}.", f".{other}.")) for other in parts[:position]]
            if home is None or None in before:
                return None
            start = sum(sizes[0] for sizes in before if sizes)
            return home[start : start + shape[0]]
    return None


def _expert_piece(
    match: re.Match[str], shape: tuple[int, ...], parameters: Mapping[str, torch.Tensor]
) -> torch.Tensor | None:
    suffix = "w2_weight" if match["part"] == "down" else "w13_weight"
    prefix = f"{match['mlp']}.experts."
    home = next((p for n, p in parameters.items() if n.startswith(prefix) and n.endswith(suffix)), None)
    if home is None:
        return None
    value = home[int(match["expert"])]
    if match["part"] == "down":
        return value
    return value[: shape[0]] if match["part"] == "gate" else value[shape[0] : 2 * shape[0]]


def uncovered(parameters: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Parameters of the engine that no tensor of the actor accounts for in full."""
    covered: dict[int, int] = {}
    for name, piece in pieces(parameters, shapes).items():
        if piece is not None:
            home = piece.untyped_storage().data_ptr()
            covered[home] = covered.get(home, 0) + _numel(shapes[name])
    missing = []
    for name, parameter in parameters.items():
        have = covered.get(parameter.untyped_storage().data_ptr(), 0)
        is_vocabulary = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        if have == 0 or (have < parameter.numel() and not is_vocabulary):
            missing.append(name)
    return missing


def stale_experts(model: torch.nn.Module) -> list[str]:
    """Expert layers whose kernel computes with something else than their current parameters.

    The kernel of vLLM's CPU build reads a packed copy, made by :mod:`verl_ext.platform.vllm_weights`, which notes what
    it was made from. A layer without such a note was packed, or not, by code that does not follow the parameters.
    """
    stale = []
    for name, module in model.named_modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None and hasattr(module, "w13_weight"):
            noted = getattr(kernel.fused_experts, "packed_from", None)
            if noted != (digest(module.w13_weight), digest(module.w2_weight)):
                stale.append(name)
    return stale


def _numel(shape: Iterable[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def extend(extension: type) -> None:
    """Teach verl's vLLM worker extension to say which process it is and what weights it holds."""

    def verl_ext_worker(self: Any) -> dict[str, Any]:
        return {"pid": os.getpid(), "rank": getattr(self, "rank", 0)}

    def verl_ext_fingerprints(self: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        parameters = dict(self.model_runner.model.named_parameters(remove_duplicate=False))
        found = pieces(parameters, shapes)
        return {
            "digests": {name: None if piece is None else digest(piece) for name, piece in found.items()},
            "uncovered": uncovered(parameters, shapes),
            "stale": stale_experts(self.model_runner.model),
        }

    extension.verl_ext_worker = verl_ext_worker  # type: ignore[attr-defined]
    extension.verl_ext_fingerprints = verl_ext_fingerprints  # type: ignore[attr-defined]

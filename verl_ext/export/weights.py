"""The weights of a Hugging Face folder: their types, their number, an adapter merged into them."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
CHOICES = ("keep", *DTYPES.values())
_BLOCK = 1 << 22


def files(folder: Path) -> list[Path]:
    """The safetensors files, in order."""
    return sorted(folder.glob("*.safetensors"))


def describe(folder: Path) -> dict[str, Any]:
    """Parameters, types, bytes and hashes; the weights themselves are read once, for the hashes.

    Returns:
        ``parameters`` (tied ones once, as they are stored), ``dtypes``, ``bytes``, and ``sha256`` by file name.
    """
    from safetensors import safe_open

    parameters, dtypes = 0, set()
    for file in files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                one = tensors.get_slice(name)
                parameters += math.prod(one.get_shape())
                dtypes.add(DTYPES.get(one.get_dtype(), one.get_dtype()))
    return {
        "parameters": parameters,
        "dtypes": sorted(dtypes),
        "bytes": sum(file.stat().st_size for file in files(folder)),
        "sha256": {file.name: sha256_of(file) for file in files(folder)},
    }


def sha256_of(file: Path) -> str:
    """SHA-256 of a file that may be larger than memory."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def state_dtype(folder: Path) -> None:
    """Let the configuration name the type that the weights have; verl writes bfloat16 whatever they are."""
    from safetensors import safe_open

    types = set()
    for file in files(folder):
        with safe_open(file, framework="pt") as tensors:
            types |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}
    if len(types) == 1 and (name := DTYPES.get(types.pop())):
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)
        file.write_text(json.dumps(config | {"dtype": name}, indent=2) + "\n", encoding="utf-8")


def cast(folder: Path, dtype: str) -> None:
    """Give all floating-point weights one type, a file at a time."""
    import torch
    from safetensors.torch import load_file, save_file

    wanted = getattr(torch, dtype)
    total = 0
    for file in files(folder):
        tensors = load_file(file)
        cast = {name: one.to(wanted) if one.is_floating_point() else one for name, one in tensors.items()}
        if any(cast[name].dtype != tensors[name].dtype for name in cast):
            save_file(cast, file, metadata={"format": "pt"})
        total += sum(one.numel() * one.element_size() for one in cast.values())
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["metadata"] = {**content.get("metadata", {}), "total_size": total}
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def merge_adapter(folder: Path) -> None:
    """Add a LoRA adapter's product to the base weights of the same folder, in their type, and remove the adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    merged = PeftModel.from_pretrained(base, folder / "lora_adapter").merge_and_unload()
    shutil.rmtree(folder / "lora_adapter")
    for file in (*files(folder), folder / "model.safetensors.index.json"):
        file.unlink(missing_ok=True)
    merged.save_pretrained(folder)

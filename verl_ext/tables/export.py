"""From verl's checkpoint to a Hugging Face folder that vLLM loads.

Where the checkpoint already holds whole weights (``hf_model`` in ``checkpoint.save_contents``) they are taken as they
are. Otherwise ``python -m verl.model_merger`` puts the shards together, which works for FSDP and Megatron and rounds
the weights to bfloat16, the type in which rollouts on GPUs run anyway. It writes the adapter of a LoRA run beside the
base weights, which would then be evaluated as if nothing had been trained: the adapter is merged into them here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from verl_ext.demo.logs import error_excerpt
from verl_ext.process import child_environment
from verl_ext.tables.training import command_line
from verl_ext.tables.work import StageError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def export(checkpoint: Path, target: Path, backend: str, log: Path) -> Path:
    """Write the Hugging Face folder of a checkpoint; a finished one is found and kept.

    Args:
        checkpoint: ``global_step_<n>/actor`` of a run of the PPO trainer, or ``global_step_<n>`` of an SFT run.
        target: the folder to write; it appears by one rename when it is complete.
        backend: ``fsdp`` or ``megatron``.
        log: where the merger's output goes.

    Raises:
        StageError: if there is no such checkpoint or the merger fails.
    """
    if target.exists():
        return target
    if not checkpoint.is_dir():
        raise StageError(f"there is no checkpoint {checkpoint}")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    whole = checkpoint / "huggingface"
    if has_weights(whole):
        shutil.copytree(whole, part, copy_function=_link_or_copy)
        _state_dtype(part)
    else:
        _merge(checkpoint, part, backend, log)
        if (part / "lora_adapter").is_dir():
            merge_adapter(part)
    os.replace(part, target)
    return target


def has_weights(folder: Path) -> bool:
    """Whether a folder holds model weights, and not only a configuration and a tokenizer."""
    return any(file.stat().st_size for pattern in _WEIGHTS for file in folder.glob(pattern))


def _link_or_copy(source: str, target: str) -> str:
    # The configuration is rewritten, and a hard link would change the checkpoint's as well.
    return str(shutil.copy2(source, target))


def _merge(checkpoint: Path, target: Path, backend: str, log: Path) -> None:
    module = ["-m", "verl.model_merger", "merge", "--backend", backend]
    command = command_line([*module, "--local_dir", str(checkpoint), "--target_dir", str(target)])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        status = subprocess.run(command, env=child_environment({}), stdout=sink, stderr=subprocess.STDOUT).returncode
    if status != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise StageError(f"verl's model merger failed (exit status {status}); its log: {log}", error_excerpt(lines))


def merge_adapter(folder: Path) -> None:
    """Add a LoRA adapter's product to the base weights of the same folder, and remove the adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(base, folder / "lora_adapter").merge_and_unload()
    shutil.rmtree(folder / "lora_adapter")
    for pattern in _WEIGHTS:
        for file in folder.glob(pattern):
            file.unlink()
    merged.save_pretrained(folder)


def _state_dtype(folder: Path) -> None:
    """Let the configuration name the type that the weights have; verl writes bfloat16 whatever they are."""
    from safetensors import safe_open

    types = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            types |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    if len(types) == 1 and (name := names.get(types.pop())):
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)
        file.write_text(json.dumps(config | {"dtype": name}, indent=2) + "\n", encoding="utf-8")

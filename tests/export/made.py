"""Made checkpoints: folders as verl leaves them, with weights of a tiny model or with bytes that nobody loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from zipfile import ZipFile


def fsdp(folder: Path, ranks: int = 2) -> Path:
    """An actor's folder with shards that are archives and hold nothing."""
    settings(folder / "huggingface")
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    for rank in range(ranks):
        with ZipFile(folder / f"model_world_size_{ranks}_rank_{rank}.pt", "w") as archive:
            archive.writestr("data", "x" * 100)
    return folder


def megatron(folder: Path, peft: bool = False) -> Path:
    """As verl's Megatron checkpoint manager leaves it, in the layout of 0.9."""
    settings(folder / "model/huggingface")
    shards = folder / "model/dist_ckpt"
    shards.mkdir()
    for name in ("__0_0.distcp", "__1_0.distcp", ".metadata", "common.pt"):
        (shards / name).write_text("x")
    contents = {"schema_version": 2, "framework": "megatron", "world_size": 8, "backend": {"peft": peft}}
    (folder / "ckpt_contents.json").write_text(json.dumps(contents))
    return folder


def settings(folder: Path) -> None:
    """Configuration and tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    (folder / "tokenizer_config.json").write_text("{}")


def whole(folder: Path, model: Path) -> Path:
    """An actor's folder with whole weights; the configuration says bfloat16, as verl writes it."""
    shutil.copytree(model, folder / "huggingface")
    config = folder / "huggingface/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))
    return folder


def one_rank(folder: Path, model: Path) -> Path:
    """An actor's folder with the shard of a single rank."""
    import torch

    shutil.copytree(model, folder / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(state(model), folder / "model_world_size_1_rank_0.pt")
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    return folder


def state(folder: Path) -> dict:
    """The weights of a Hugging Face folder, in the type that they have."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()

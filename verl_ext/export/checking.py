"""Whether a checkpoint is whole, seen without loading it: a damaged one is told before minutes are spent on it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from verl_ext.export.finding import FSDP_MARK, MEGATRON_MARK, Checkpoint, step_folder
from verl_ext.run.checkpoint import layout, manifest

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_OTHER = re.compile(r"(optim|extra_state)_world_size_")
"""Of the training's state and not of the weights: may be gone."""
_AGAIN = "export an earlier step, or save again"


def has_weights(folder: Path) -> bool:
    """Whether a folder holds model weights, and not only a configuration and a tokenizer."""
    return any(file.stat().st_size for pattern in _WEIGHTS for file in folder.glob(pattern))


def faults(checkpoint: Checkpoint) -> list[str]:
    """Everything that keeps a checkpoint from being exported."""
    if found := _unsealed(checkpoint):
        return found
    found = _megatron(checkpoint) if checkpoint.backend == "megatron" else _fsdp(checkpoint)
    return [*found, *_huggingface(checkpoint.huggingface)]


def _unsealed(checkpoint: Checkpoint) -> list[str]:
    """What the checkpoint's own list of files says, where verl_ext.checkpoint has written one."""
    folder = step_folder(checkpoint.folder)
    if folder is None:
        return []
    if (folder / layout.UNFINISHED).exists():
        return [f"{folder} is marked as unfinished ({layout.UNFINISHED}); {_AGAIN}"]
    if not (folder / layout.MANIFEST).exists():
        return []
    try:
        entries = manifest.Manifest.read(folder).entries
    except ValueError as error:
        return [f"{folder / layout.MANIFEST} {error}; {_AGAIN}"]
    below = checkpoint.folder.relative_to(folder).as_posix()
    needed = [entry for entry in entries if below == "." or entry.path.startswith(f"{below}/")]
    weights = [entry for entry in needed if not _OTHER.match(Path(entry.path).name)]
    return [f"{folder}: {fault}; {_AGAIN}" for fault in manifest.check(folder, weights, content=False)]


def ranks(checkpoint: Checkpoint) -> int | None:
    """Processes that wrote the shards, as the checkpoint says; None where it says nothing that can be read."""
    mark = FSDP_MARK if checkpoint.backend == "fsdp" else MEGATRON_MARK
    found = _json(checkpoint.folder / mark)
    size = found.get("world_size") if isinstance(found, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def _fsdp(checkpoint: Checkpoint) -> list[str]:
    folder = checkpoint.folder
    if has_weights(checkpoint.huggingface):
        return []
    size = ranks(checkpoint)
    if size is None:
        shards = sorted(file.name for file in folder.glob("model_world_size_*_rank_*.pt"))
        what = f"of {len(shards)} shards" if shards else "and there are no shards (model_world_size_<w>_rank_<r>.pt)"
        return [f"{folder / FSDP_MARK} is missing or has no world_size, {what}; {_AGAIN}"]
    files = [folder / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]
    absent = [str(rank) for rank, file in enumerate(files) if not file.is_file()]
    found = []
    if absent:
        others = {named[0] for file in folder.glob("model_*.pt") if (named := layout.shard(file.name))} - {size}
        hint = f"; there are shards of {', '.join(map(str, sorted(others)))} ranks" if others else ""
        saved = "each node keeps the shards of its own ranks: copy them together" if len(absent) < size else _AGAIN
        found.append(f"{folder}: of {size} ranks the shards of {', '.join(absent)} are missing{hint}; {saved}")
    return [*found, *(fault for file in files if file.is_file() and (fault := _cut_off(file)))]


def _cut_off(file: Path) -> str | None:
    # torch.save writes a zip archive, whose directory stands at the end.
    if zipfile.is_zipfile(file):
        return None
    return f"{file} is cut off or damaged ({file.stat().st_size:,} bytes); {_AGAIN}"


def _megatron(checkpoint: Checkpoint) -> list[str]:
    folder = checkpoint.folder
    if (folder / "dist_ckpt").is_dir() and not (folder / "model").is_dir():
        return [
            f"{folder} has the layout of verl before 0.9, dist_ckpt/ at its top; verl's "
            "scripts/migrate_megatron_checkpoint_layout.py brings it to today's"
        ]
    contents = _json(folder / MEGATRON_MARK)
    if not isinstance(contents, dict):
        return [f"{folder / MEGATRON_MARK}, which verl writes last, is missing or cannot be read; {_AGAIN}"]
    if (contents.get("backend") or {}).get("peft"):
        return [
            f"{folder} is of a LoRA run: its adapter lies in Megatron's shards beside the base weights, and verl's "
            "merger does not put them together; set actor_rollout_ref.model.lora.merge=true in the run"
        ]
    if has_weights(checkpoint.huggingface):
        return []
    shards = folder / "model" / "dist_ckpt"
    empty = [file.name for file in sorted(shards.glob("*.distcp")) if not file.stat().st_size]
    found = [f"{shards}: empty shards: {', '.join(empty)}; {_AGAIN}"] if empty else []
    if not any(shards.glob("*.distcp")):
        found.append(f"{shards} has no shards (*.distcp), and model/huggingface no weights; {_AGAIN}")
    # Torch writes it when all ranks are done.
    elif not (shards / ".metadata").is_file():
        found.append(f"{shards / '.metadata'} is missing: not all ranks had finished; {_AGAIN}")
    return found


def _huggingface(folder: Path) -> list[str]:
    """Faults of the configuration, the tokenizer, and of whole weights in several files."""
    found = []
    if not isinstance(_json(folder / "config.json"), dict):
        found.append(f"{folder / 'config.json'} is missing or cannot be read; copy it from the model that was trained")
    if not (folder / "tokenizer_config.json").is_file():
        found.append(f"{folder} has no tokenizer; copy the files of the model that was trained (tokenizer*) into it")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed = _json(index)
        names = set((listed.get("weight_map") or {}).values()) if isinstance(listed, dict) else set()
        absent = sorted(name for name in names if not (folder / name).is_file() or not (folder / name).stat().st_size)
        if absent or not names:
            found.append(f"{index} names weights that are not there: {', '.join(absent) or 'none at all'}; {_AGAIN}")
    return found


def _json(file: Path) -> Any:
    """What a file holds; None where it is missing or no JSON."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None

"""Writing the Hugging Face folder of a checkpoint.

Where the checkpoint already holds whole weights (``hf_model`` in ``checkpoint.save_contents``) they are copied.
Otherwise the shards are put together in a child process: of FSDP by verl's merger in the type that they have
(``verl_ext.bridge.merging``), of Megatron by ``python -m verl.model_merger``, which rounds to bfloat16. verl's merger
writes the adapter of a LoRA run beside the base weights, which would then be evaluated as if nothing had been trained:
the adapter is merged into them here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from verl_ext import __version__
from verl_ext.export import checking, weights
from verl_ext.export.finding import Checkpoint, ExportError

RECORD = "verl_ext_export.json"


def target_faults(checkpoint: Checkpoint, target: Path, force: bool) -> list[str]:
    """Why an export cannot be written there."""
    target = target.absolute()
    if checkpoint.folder == target or target in checkpoint.folder.parents:
        return [f"--out {target} holds the checkpoint itself; name another folder"]
    if not target.exists():
        return []
    if not force:
        return [f"{target} exists; add --force to replace it, or give another --out"]
    if not (target / "config.json").is_file():
        return [f"{target} holds no model (no config.json), so that --force does not remove it; give another --out"]
    return []


def write(checkpoint: Checkpoint, target: Path, dtype: str, log: Path) -> dict[str, Any]:
    """Write the folder; it appears, or replaces another, by a rename when it is complete.

    Args:
        checkpoint: of `verl_ext.export.finding.find`.
        target: the folder to write.
        dtype: of `weights.CHOICES`; ``keep`` is what the checkpoint has.
        log: where the merger's output goes.

    Returns:
        What `RECORD` in the folder says: step, back end, how the weights came about, and `weights.describe`.

    Raises:
        ExportError: with every fault of the checkpoint, or with what the merger says.
    """
    if found := checking.faults(checkpoint):
        raise ExportError(found)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    how = _gather(checkpoint, part, dtype, log)
    weights.state_dtype(part)
    if (part / "lora_adapter").is_dir():
        weights.merge_adapter(part)
        how += ", LoRA adapter merged"
    if dtype != "keep":
        weights.cast(part, dtype)
    weights.state_dtype(part)
    record = {
        "step": checkpoint.step,
        "backend": checkpoint.backend,
        "weights": how,
        **weights.describe(part),
        "verl_ext": __version__,
    }
    (part / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _put_in_place(part, target)
    return record


def _gather(checkpoint: Checkpoint, part: Path, dtype: str, log: Path) -> str:
    """Fill the folder with weights, configuration and tokenizer; say how."""
    if checking.has_weights(checkpoint.huggingface):
        # Copied and not linked: the configuration is rewritten, and a hard link would change the checkpoint's as well.
        shutil.copytree(checkpoint.huggingface, part)
        return "copied, as the checkpoint holds them whole"
    _merge(merger_command(checkpoint, part, dtype), log)
    size = checking.ranks(checkpoint)
    return f"put together from the shards of {size} rank{'' if size == 1 else 's'}"


def merger_command(checkpoint: Checkpoint, part: Path, dtype: str) -> list[str]:
    """The command line that puts shards together."""
    folders = ["--local_dir", str(checkpoint.folder), "--target_dir", str(part)]
    if checkpoint.backend == "fsdp":
        return [sys.executable, "-m", "verl_ext.bridge.merging", *folders, "--dtype", dtype]
    tied = json.loads((checkpoint.huggingface / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings")
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "megatron", *folders]
    return [*command, "--tie-word-embedding"] if tied else command


def _merge(command: list[str], log: Path) -> None:
    from verl_ext.live.logs import error_excerpt
    from verl_ext.process import child_environment

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        begun = sink.tell()
        status = subprocess.run(command, env=child_environment({}), stdout=sink, stderr=subprocess.STDOUT).returncode
    if status != 0:
        lines = log.read_bytes()[begun:].decode("utf-8", errors="replace").splitlines()
        fault = f"putting the shards together failed (exit status {status}); the whole log: {log}"
        raise ExportError([fault], error_excerpt(lines))


def _put_in_place(part: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)

"""The stage `export`: the weights that were trained, as a Hugging Face folder that is evaluated.

Whole weights stay as they are. Shards are rounded to bfloat16, the type in which rollouts on GPUs run anyway.
"""

from __future__ import annotations

from pathlib import Path

from verl_ext.export import checking, finding, writing
from verl_ext.tables.work import StageError


def export(folder: Path, target: Path, backend: str, log: Path) -> Path:
    """Write the Hugging Face folder of a checkpoint; a finished one is found and kept.

    Args:
        folder: ``global_step_<n>/actor`` of a run of the PPO trainer, or ``global_step_<n>`` of an SFT run.
        target: the folder to write; it appears by one rename when it is complete.
        backend: ``fsdp`` or ``megatron``.
        log: where the merger's output goes.

    Raises:
        StageError: if there is no such checkpoint, it is not whole, or the merger fails.
    """
    if target.exists():
        return target
    if not folder.is_dir():
        raise StageError(f"there is no checkpoint {folder}")
    checkpoint = finding.Checkpoint(folder, backend, finding.step_in(folder))
    dtype = "keep" if checking.has_weights(checkpoint.huggingface) else "bfloat16"
    try:
        writing.write(checkpoint, target, dtype, log)
    except finding.ExportError as error:
        raise StageError(f"{folder} cannot be exported", [*error.faults, *error.details]) from error
    return target

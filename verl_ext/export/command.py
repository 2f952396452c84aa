"""``verl-ext eval export CHECKPOINT``. Imports stand inside the function, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from verl_ext.export.finding import Checkpoint


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's folder, its default_local_dir, global_step_N, or the actor's folder.")
    ],
    out: Annotated[Path | None, typer.Option(help="Default: model_step_N beside the checkpoints.")] = None,
    dtype: Annotated[str, typer.Option(help="keep, float32, bfloat16 or float16; keep is the checkpoint's.")] = "keep",
    force: Annotated[bool, typer.Option("--force", help="Replace the model that is there.")] = False,
) -> None:
    """Write a checkpoint of verl, FSDP or Megatron, as a Hugging Face folder with tokenizer and chat template.

    Of several steps verl's tracker file decides. The checkpoint is checked first: all ranks there, no file cut off.
    The exit status is 1 if it cannot be exported; every fault is listed.
    """
    from rich.console import Console

    from verl_ext.export.finding import ExportError

    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        found, target, record = run(checkpoint.expanduser(), out, dtype, force)
    except ExportError as error:
        faults = (f"  - {fault}" for fault in error.faults)
        console.print("nothing was exported:", *faults, *error.details, sep="\n")
        raise typer.Exit(1) from None
    for label, text in summary(found, target, record).items():
        console.print(f"{label:12}{text}")


def run(path: Path, out: Path | None, dtype: str, force: bool) -> tuple[Checkpoint, Path, dict[str, Any]]:
    """Find, check and write; everything that can be seen to be wrong is told at once.

    Raises:
        ExportError: with every fault.
    """
    from verl_ext.export import checking, weights, writing
    from verl_ext.export.finding import ExportError, find

    found = []
    if dtype not in weights.CHOICES:
        found.append(f"--dtype {dtype}: choose one of {', '.join(weights.CHOICES)}")
    try:
        checkpoint = find(path)
    except ExportError as error:
        raise ExportError([*found, *error.faults]) from None
    target = (out.expanduser() if out else checkpoint.default_target).absolute()
    found += writing.target_faults(checkpoint, target, force)
    found += checking.faults(checkpoint)
    if found:
        raise ExportError(found)
    log = target.with_name(f"{target.name}.log")
    record = writing.write(checkpoint, target, dtype, log)
    # Its end stands in the error where the merger fails.
    log.unlink(missing_ok=True)
    return checkpoint, target, record


def summary(checkpoint: Checkpoint, target: Path, record: dict[str, Any]) -> dict[str, str]:
    """Label -> text."""
    hashes = record["sha256"]
    step = "" if record["step"] is None else f", step {record['step']}"
    return {
        "checkpoint": f"{checkpoint.folder} ({record['backend']}{step})",
        "weights": record["weights"],
        "parameters": f"{record['parameters']:,}",
        "dtype": ", ".join(record["dtypes"]),
        "size": f"{record['bytes']:,} bytes in {len(hashes)} file{'' if len(hashes) == 1 else 's'}",
        **{f"sha256{'' if len(hashes) == 1 else f' {n}'}": text for n, text in enumerate(hashes.values(), start=1)},
        "template": "chat template copied" if has_template(target) else "the tokenizer has no chat template",
        "written": str(target),
    }


def has_template(folder: Path) -> bool:
    """Whether the tokenizer of a folder has a chat template, in a file of its own or in its configuration."""
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or '"chat_template"' in config.read_text(encoding="utf-8")

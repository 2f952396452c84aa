"""``verl-ext view tokens RUN``. Imports stand inside the functions, so that help stays fast."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from verl_ext.viewer.contents import Step

PAGE = "tokens.html"
# A page of about 100 MB; browsers open it in a second or two.
MAX_TOKENS = 2_000_000


def view(
    run: Annotated[
        Path,
        typer.Argument(help="A run's folder, its token_export, one step of it, or a batch that a guard kept."),
    ],
    out: Annotated[Path | None, typer.Option(help=f"The page; default: {PAGE} beside the export.")] = None,
    steps: Annotated[list[int] | None, typer.Option("--step", help="This step only; repeatable; default: all.")] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Prompts are taken, evenly from each step, until the page holds so many tokens.")
    ] = MAX_TOKENS,
) -> None:
    """Write one HTML page that shows what a method did to every token: no server, no network.

    Runs write the export with +verl_ext.export.every=N. The exit status is 2 if there is nothing to show; every fault
    is listed.
    """
    from rich.console import Console

    from verl_ext.viewer.finding import ViewError

    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        target, found = write(run.expanduser(), out, steps or (), max_tokens)
    except ViewError as error:
        console.print("there is nothing to show:", *(f"  - {fault}" for fault in error.faults), sep="\n")
        raise typer.Exit(2) from None
    console.print(*summary(target, found), sep="\n")


def write(path: Path, out: Path | None, chosen: Sequence[int], max_tokens: int) -> tuple[Path, list[Step]]:
    """Read the exports, write the page; where, and what it holds.

    Raises:
        ViewError: with every fault.
    """
    from verl_ext import batch_file
    from verl_ext.viewer import contents, page
    from verl_ext.viewer.finding import ViewError, find

    found = find(path)
    missing = [step for step in chosen if None not in found and step not in found]
    if missing:
        there = ", ".join(str(step) for step in found)
        raise ViewError([f"step {step} is not there, only {there}" for step in missing])
    wanted = {step: place for step, place in found.items() if step is None or not chosen or step in chosen}
    steps, faults, names = [], [], []
    for place in wanted.values():
        try:
            batch = batch_file.read_all(place)
            steps.append(contents.read_step(batch, facts(batch.about), max_tokens // len(wanted)))
            names.append(str(batch.about.get("run") or ""))
        except ViewError as error:
            faults += [f"{place}: {fault}" for fault in error.faults]
        except ValueError as error:  # pyarrow's and batch_file's, for files that are no batches
            faults.append(str(error) if str(place) in str(error) else f"{place}: {error}")
    if not faults and not any(step.prompts for step in steps):
        faults.append(f"{path}: the batches have no response that is not padding")
    if faults:
        raise ViewError(faults)
    manifest, blocks = contents.pack(_title(names, path), steps)
    target = (out or _beside(path, next(iter(wanted.values())))).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page.render(manifest, blocks), encoding="utf-8")
    return target, steps


def facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What the metadata say of a step, as texts under names for people."""
    names = {
        "loss": "loss",
        "hyper_parameters": "hyper-parameters",
        "loss_agg_mode": "aggregation",
        "vocab_size": "vocabulary",
        "made_with": "made with",
    }
    return {label: _words(about[name]) for name, label in names.items() if about.get(name) not in (None, "", {})}


def summary(target: Path, steps: Sequence[Step]) -> list[str]:
    """Lines for the terminal."""
    rows = [row for step in steps for prompt in step.rows for row in prompt]
    tokens = sum(len(row.mask) for row in rows)
    prompts, left_out = sum(len(step.prompts) for step in steps), sum(step.left_out for step in steps)
    lines = [
        f"written   {target} ({target.stat().st_size / 1e6:.1f} MB)",
        f"holds     {len(steps)} steps, {prompts} prompts, {len(rows)} responses, {tokens:,} tokens",
    ]
    if left_out:
        lines.append(f"left out  {left_out} prompts: a page holds --max-tokens; --step picks steps")
    return lines


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_words(part)}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _title(names: Sequence[str], path: Path) -> str:
    return next(filter(None, names), "") or path.absolute().name


def _beside(path: Path, first: Path) -> Path:
    """In `token_export` where there is one, otherwise beside the batch."""
    if path.is_file():
        return path.with_suffix(".html")
    return (first if first == path else first.parent) / PAGE

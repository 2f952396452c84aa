"""``verl-ext report RUN [RUN ...]``. Imports stand inside the function, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="[NAME=]RUN...", help="Folder or file of a run; NAME is what it is called.")
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("run-report.html"),
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Average runs of one name; from paths a trailing seedN is dropped.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="Heading of the page (default: the names).")] = None,
    smooth: Annotated[float, typer.Option(help="Weight of the moving average, 0 to 0.99; 0 draws the values.")] = 0.7,
) -> None:
    """Write what runs have logged as one HTML page, their curves over each other.

    Reads logs of verl's file logger (.jsonl), TensorBoard's event files, wandb folders (offline-run-...) and histories
    exported from wandb (.csv, .json). Several attempts at a run (metrics-1.jsonl, metrics-2.jsonl) are joined.

    The exit status is 2 if something cannot be read; every fault is listed, and nothing is written.
    """
    from rich.console import Console

    from verl_ext.run_report.sources import SourceError

    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        page = make(runs, out, seeds, title, smooth)
    except SourceError as error:
        console.print("no report was written:", *(f"  - {fault}" for fault in str(error).splitlines()), sep="\n")
        raise typer.Exit(2) from None
    out.write_text(page, encoding="utf-8")
    console.print(f"written: {out} ({len(page.encode()) / 1e6:.1f} MB)")


def make(runs: list[str], out: Path, seeds: bool = False, title: str | None = None, smooth: float = 0.7) -> str:
    """The page.

    Raises:
        SourceError: with every fault of the arguments and of what they name, one a line.
    """
    from verl_ext.run_report import methods, page
    from verl_ext.run_report.sources import SourceError

    faults = []
    if not 0 <= smooth < 1:
        faults.append(f"--smooth {smooth:g}: must be at least 0 and below 1")
    if out.is_dir():
        faults.append(f"--out {out}: is a folder; name the page")
    elif not out.absolute().parent.is_dir():
        faults.append(f"--out {out}: there is no folder {out.parent}")
    try:
        found = methods.gather(runs, seeds)
    except SourceError as error:
        faults += str(error).splitlines()
    if faults:
        raise SourceError("\n".join(faults))
    names = ", ".join(method.name for method in found)
    return page.render(found, title or f"Runs: {names}", smooth)

"""`verl-ext tables`: list, plan, run and report. Imports of a command stand inside it, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The papers' tables: list them, plan them, run their rows, report published against obtained.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
)

References = Annotated[
    list[str] | None,
    typer.Argument(metavar="[REF]...", help="A paper, paper/table or paper/table/row; all by default."),
]
Out = Annotated[Path, typer.Option(help="Work folders and reports.")]
DataFolder = Annotated[
    Path, typer.Option("--data-dir", envvar="VERL_EXT_DATA", help="Prepared data; what is missing is prepared.")
]
AssetsFolder = Annotated[Path, typer.Option(help="Cache of the demo's models.")]
DEFAULT_OUT, DEFAULT_DATA, DEFAULT_ASSETS = Path("outputs/tables"), Path("outputs/data"), Path("outputs/assets")


@app.command("list")
def list_tables() -> None:
    """List the tables with their numbers of rows."""
    from rich.console import Console
    from rich.table import Table

    from verl_ext.recipe_files.recipe import all_tables

    shown = Table(box=None, header_style="bold")
    for heading in ("table", "rows", "title", "source"):
        shown.add_column(heading, overflow="fold")
    for table in all_tables():
        shown.add_row(table.reference, str(len(table.rows)), table.title, table.source)
    Console().print(shown)


@app.command()
def plan(
    references: References = None,
    out: Out = DEFAULT_OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show rows, settings, seeds, GPU-hours (an estimate) and what is done. Needs no GPU.

    The exit status is 1 if a row cannot be composed.
    """
    import json

    from rich.console import Console

    from verl_ext.tables import plan as planning
    from verl_ext.tables.job import Places

    console, plans = Console(), []
    for table, rows in _select(references or []):
        found = planning.plan(table, rows, Places(out=out))
        plans.append((table, found))
        if not as_json:
            planning.show(table, found, console)
    if as_json:
        typer.echo(json.dumps([planning.as_json(table, found) for table, found in plans], indent=1))
    raise typer.Exit(1 if any(one.fault for _, found in plans for one in found) else 0)


@app.command()
def run(
    references: Annotated[list[str], typer.Argument(metavar="REF...", help="A paper, paper/table or paper/table/row.")],
    rows: Annotated[str | None, typer.Option(help="Of a table, only these rows: a,b.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the rows' own: 1,2,3.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--override", help="A Hydra override after the row's own; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Redo stages that were done for other settings.")] = False,
    again: Annotated[
        str | None, typer.Option("--from", help="Redo from this stage on: data, train, export, evaluate or result.")
    ] = None,
    where: Annotated[str, typer.Option("--as", help="local, or ray: one job a row.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of Ray's job server, for --as ray.")] = None,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs a copy of the model takes in the evaluation.")] = 1,
    out: Out = DEFAULT_OUT,
    data: DataFolder = DEFAULT_DATA,
    assets_dir: AssetsFolder = DEFAULT_ASSETS,
) -> None:
    """Run rows: data, training, export, evaluation, result. What is done is skipped; an interrupted run goes on.

    The exit status is 1 if a row failed (the others are run), and 130 if the run was interrupted.
    """
    from rich.console import Console

    from verl_ext.tables import plan as planning
    from verl_ext.tables.job import Places
    from verl_ext.tables.ray_jobs import submit
    from verl_ext.tables.run import run_jobs
    from verl_ext.tables.work import STAGES

    if where not in ("local", "ray") or (where == "ray") != (address is not None):
        raise typer.BadParameter("--as is local, or ray together with --address")
    if again is not None and again not in STAGES:
        raise typer.BadParameter(f"there is no stage '{again}'; there are {', '.join(STAGES)}", param_hint="--from")
    console, places = Console(), Places(out, data, assets_dir)
    chosen = _only(_select(references), rows)
    found = planning.jobs(chosen, places, _numbers(seeds), overrides or (), tensor_parallel)
    skipped = [row.reference for _, some in chosen for row in some if row.kind in ("same_as", "derived")]
    if skipped:
        console.print(f"no run of their own: {', '.join(skipped)}", soft_wrap=True)
    if where == "ray":
        options = ["--out", str(out), "--data-dir", str(data), "--tensor-parallel", str(tensor_parallel)]
        options += [*(["--force"] if force else []), *(["--from", again] if again else [])]
        try:
            identities = submit(found, str(address), options)
        except ConnectionError as error:
            raise typer.BadParameter(str(error), param_hint="--address") from error
        for job, identity in zip(found, identities, strict=True):
            console.print(f"{job.name}: {identity}", highlight=False)
        raise typer.Exit(0)
    raise typer.Exit(run_jobs(found, console, force, again))


@app.command()
def report(
    references: References = None,
    html: Annotated[bool, typer.Option("--html", help="Write the HTML page too.")] = False,
    out: Out = DEFAULT_OUT,
) -> None:
    """Write published against obtained for whole tables: report.md, and report.html."""
    from verl_ext.tables.page import write

    for table, _ in _select(references or []):
        for path in write(table, out, ("md", "html") if html else ("md",)):
            typer.echo(path)


def _select(references: list[str]):  # type: ignore[no-untyped-def]
    from verl_ext.recipe_files.recipe import RecipeError
    from verl_ext.tables.plan import select

    try:
        return select(references)
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error


def _only(chosen, rows: str | None):  # type: ignore[no-untyped-def]
    if rows is None:
        return chosen
    wanted = [name.strip() for name in rows.split(",")]
    known = {row.name for _, some in chosen for row in some}
    if unknown := [name for name in wanted if name not in known]:
        raise typer.BadParameter(f"no such row: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [(table, [row for row in some if row.name in wanted]) for table, some in chosen]


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise typer.BadParameter(f"seeds are whole numbers, separated by commas; got '{text}'", param_hint="--seeds")
    return [int(part) for part in parts]

"""`verl-ext study`: run, status and page. Imports of a command stand inside it, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verl_ext.study.schema import Cell, Study

app = typer.Typer(
    help="Methods side by side on tiny models: run the cells of a study, and write its page.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
)

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="A folder with study.yaml, such as recipes/cpu_study.")]


@app.command()
def run(
    folder: Folder,
    models: Annotated[list[str] | None, typer.Option("--model", help="Only this model; repeatable.")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="Only this method; repeatable.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; repeatable.")] = None,
    most: Annotated[int | None, typer.Option("--runs", min=1, help="Stop after this many runs.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run also what has a result, and replace it.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Commit each result with git when it is there.")] = False,
    out: Annotated[Path, typer.Option(help="Logs, metrics and token exports.")] = Path("outputs/study"),
    assets_dir: Annotated[Path, typer.Option(help="Cache of the tiny models.")] = Path("outputs/assets"),
) -> None:
    """Run what has no result yet, one run at a time; an interrupted study goes on with the same command.

    The exit status is 0 if all is done, 1 if a run failed (the others are run), 130 if it was interrupted.
    """
    from rich.console import Console

    from verl_ext.study.run import Places, run_cells

    cells = _chosen(_read(folder), models, methods, seeds)
    todo = cells if again else [cell for cell in cells if not cell.result_file.exists()]
    if most is not None and len(todo) > most:
        left = {cell.name for cell in todo[most:]}
        cells = [cell for cell in cells if cell.name not in left]
    raise typer.Exit(run_cells(cells, Places(out, assets_dir), commit, again, Console()))


@app.command()
def status(folder: Folder) -> None:
    """Show which runs have a result. The exit status is 1 if some have none."""
    from rich.console import Console
    from rich.table import Table

    study = _read(folder)
    shown = Table(box=None, header_style="bold")
    for heading in ("model", "method", "seeds done", "seeds missing"):
        shown.add_column(heading)
    missing = 0
    for model, names in study.models.items():
        for name in names:
            cells = [cell for cell in study.compared() if (cell.model, cell.method.name) == (model, name)]
            absent = [str(cell.seed) for cell in cells if not cell.result_file.exists()]
            done = [str(cell.seed) for cell in cells if cell.result_file.exists()]
            shown.add_row(model, name, ", ".join(done), ", ".join(absent))
            missing += len(absent)
    Console().print(shown)
    typer.echo(f"{len(study.compared()) - missing} of {len(study.compared())} runs are done")
    raise typer.Exit(1 if missing else 0)


@app.command()
def page(
    folder: Folder,
    docs: Annotated[Path, typer.Option(help="Folder of the page; its pictures go into images/.")] = Path("docs"),
) -> None:
    """Write study.md and its pictures from the results that are there."""
    from verl_ext.study.page import write

    _read(folder)
    for path in write(folder, docs):
        typer.echo(path)


def _read(folder: Path) -> Study:
    from verl_ext.recipe_files.reader import RecipeError
    from verl_ext.study.schema import read

    try:
        return read(folder)
    except RecipeError as error:
        raise typer.BadParameter(str(error), param_hint="STUDY") from error


def _chosen(study: Study, models: list[str] | None, methods: list[str] | None, seeds: list[int] | None) -> list[Cell]:
    """The cells that the options name; a name that no cell has is refused."""
    cells = study.cells()
    known = (
        ("--model", models, {cell.model for cell in cells}),
        ("--method", methods, {cell.method.name for cell in cells}),
        ("--seed", seeds, {cell.seed for cell in cells}),
    )
    faults = [
        f"{option} {value}: there is {', '.join(map(str, sorted(values)))}"
        for option, given, values in known
        for value in given or ()
        if value not in values
    ]
    if faults:
        raise typer.BadParameter("; ".join(faults))
    return [
        cell
        for cell in cells
        if (not models or cell.model in models)
        and (not methods or cell.method.name in methods)
        and (not seeds or cell.seed in seeds)
    ]

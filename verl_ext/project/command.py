"""``verl-ext init NAME``. Imports stand inside the function, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def init(
    name: Annotated[Path, typer.Argument(help="Folder to make; its last part is the project's name.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Your problems: parquet, jsonl, json, arrow or csv; columns problem and answer, or verl's."),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Around each bare problem: boxed (the default), plain, qwen_math ...")
    ] = None,
    text_answers: Annotated[
        bool, typer.Option("--text-answers", help="Accept many answers that are words or choices, no mathematics.")
    ] = False,
    model: Annotated[
        bool, typer.Option(help="Put the demo's tiny model into it; building it takes about a minute, once.")
    ] = True,
    assets_dir: Annotated[Path, typer.Option(help="Cache of the demo's models and data.")] = Path("outputs/assets"),
) -> None:
    """Make a project of your own: data, a reward function with its test, configurations, and a README.

    Without --data the examples are the demo's arithmetic. Nothing is overwritten. The exit status is 1 if the project
    cannot be made; every fault is listed.
    """
    from rich.console import Console

    from verl_ext.project.examples import ProjectError

    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        files = make(name.expanduser(), data, template, text_answers, assets_dir if model else None, console)
    except ProjectError as error:
        console.print("the project cannot be made:", *(f"  - {fault}" for fault in error.faults), sep="\n")
        raise typer.Exit(1) from None
    console.print(f"{name}: {len(files)} files", *(f"  {file}" for file in files), sep="\n")
    console.print(f"\nNext, in {name}: see README.md, or at once\n")
    console.print(f"  cd {name}\n  {CPU_COMMAND}")


CPU_COMMAND = "verl-ext train 'hydra.searchpath=[configs]' backend=cpu model=tiny_dense algo=grpo +project=cpu"


def make(
    folder: Path,
    data: Path | None,
    template: str | None,
    text_answers: bool,
    assets_dir: Path | None,
    console: Console,
) -> list[Path]:
    """Look at everything before anything is built, then write the project.

    Raises:
        ProjectError: with every fault of the name, the folder and the data.
    """
    from verl_ext.project import examples, writing

    found = writing.faults(folder)
    try:
        if data is None and template is not None:
            raise examples.ProjectError(["--template is for --data: the demo's problems have none"])
        if data is None:
            chosen = examples.demo(folder.name)
        else:
            with console.status("the verifier reads every answer ..."):
                chosen = examples.own(folder.name, data, template, text_answers)
    except examples.ProjectError as error:
        found += error.faults
    if found:
        raise examples.ProjectError(found)
    return writing.write(folder, chosen, None if assets_dir is None else _tiny_model(assets_dir, console))


def _tiny_model(assets_dir: Path, console: Console) -> Path:
    from verl_ext.toy.assets import prepare

    with console.status("the tiny model ...") as status:

        def progress(step: int, steps: int, loss: float) -> None:
            status.update(f"pre-training the tiny model: step {step}/{steps}, loss {loss:.3f}")

        return prepare("tiny_dense", assets_dir, progress=progress).model_dir

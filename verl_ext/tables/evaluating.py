"""The evaluation of a run: one folder for each kept step, benchmark and decoding."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from verl_ext.recipe_files.schema import Column
from verl_ext.tables.job import Job
from verl_ext.tables.work import StageError

if TYPE_CHECKING:
    from verl_ext.evaluation import run as evaluation

VERIFIER = "math_verify"
UNTRAINED = "0"
"""Step of a model that the row did not train."""


def folder_name(column: Column) -> str:
    """Where a column's responses lie; columns of one benchmark and decoding share them."""
    return f"{column.benchmark}.{column.decoding}"


def measured(job: Job) -> dict[str, Column]:
    """Folder name -> a column that reads it."""
    return {folder_name(column): column for column in job.table.columns if column.benchmark}


def evaluation_inputs(job: Job) -> dict[str, Any]:
    """What the responses and their scores depend on."""
    from verl_ext.evaluation.request import model_identity
    from verl_ext.evaluation.scoring import verifier_version

    files, template = job.work.outputs("data")["files"], job.row.template
    models = job.work.outputs("export").get("models") or {UNTRAINED: model_identity(_given_model(job))}
    return {
        "models": models,
        "benchmarks": {name: files[f"{column.benchmark}/{template}"] for name, column in measured(job).items()},
        "decodings": {name: _decoding(job, column) for name, column in measured(job).items()},
        "verifier": verifier_version(VERIFIER, job.table.answer_format),
        "seed": job.seed,
    }


def _decoding(job: Job, column: Column) -> dict[str, Any]:
    found = asdict(job.table.decodings[str(column.decoding)])
    del found["name"]
    return found


def _given_model(job: Job) -> Any:
    from verl_ext.evaluation.run import Endpoint

    return Endpoint(**asdict(job.row.endpoint)) if job.row.endpoint else job.work.outputs("data")["model"]


def steps(job: Job) -> list[str]:
    """The steps that are evaluated."""
    return list(job.work.outputs("export").get("models") or {UNTRAINED: None})


def requests(job: Job) -> dict[str, evaluation.Request]:
    """For each step, what `verl_ext.evaluation.run.evaluate` is asked for."""
    from verl_ext.evaluation.run import BenchmarkFile, Decoding, EngineOptions, Request

    root, template = job.places.data.absolute(), job.row.template
    columns = measured(job)
    files = [BenchmarkFile(name, root / str(one.benchmark) / f"{template}.parquet") for name, one in columns.items()]
    decodings = {name: Decoding(**_decoding(job, column)) for name, column in columns.items()}
    trained = job.row.kind != "evaluate"
    return {
        step: Request(
            model=str(job.work.models / f"step_{step}") if trained else _given_model(job),
            benchmarks=files,
            decodings=decodings,
            out=job.work.evaluation / f"step_{step}",
            verifier=VERIFIER,
            answer_format=job.table.answer_format,
            seed=job.seed,
            engine=EngineOptions(tensor_parallel=job.tensor_parallel),
        )
        for step in steps(job)
    }


def evaluate(job: Job, console: Console) -> None:
    """Generate and grade for every kept step; what an earlier start finished is found.

    Raises:
        StageError: if something is wrong with the request, or responses are missing.
    """
    from verl_ext.evaluation import run as evaluation

    for step, request in requests(job).items():
        request.out.mkdir(parents=True, exist_ok=True)
        with Bars(console, "" if step == UNTRAINED else f"step {step} ") as bars:
            try:
                evaluation.evaluate(request, bars.show)
            except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
                raise StageError(f"the evaluation failed; {where(request.out)}", str(error).splitlines()) from error


def where(folder: Path) -> str:
    return f"its folder: {folder}"


class Bars:
    """A bar for each benchmark and stage. A context manager."""

    def __init__(self, console: Console, prefix: str) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._prefix = prefix
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, benchmark: str, stage: str, done: int, total: int) -> None:
        """A `verl_ext.evaluation.run.Progress`."""
        key = (benchmark, stage)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(f"{self._prefix}{benchmark} {stage}")
        self._progress.update(self._tasks[key], completed=done, total=total)

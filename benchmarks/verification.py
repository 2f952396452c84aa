"""`python -m benchmarks.verification FILES`: the verifier on benchmark files in verl's schema, and its speed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.perturbations import perturbed
from verl_ext.rewards.verifiers import Graded, Verifier, get, grade_many

console = Console()
RESULTS = Path(__file__).with_name("results")


@dataclass
class Result:
    """What the verifier made of a file.

    Attributes:
        problems: unique problems.
        outcomes: of the ground truths in a box.
        exceptions: ground truths that are not correct against themselves, with the outcome.
        refused, tried: wrong answers refused and given, by kind.
        unjudged: of the wrong answers, how many ended in timeout or error.
        accepted: wrong answers that were accepted: kind, ground truth, answer.
        seconds, answers: wall time and number of all gradings.
    """

    problems: int
    outcomes: Counter[str] = field(default_factory=Counter)
    exceptions: list[tuple[str, Graded]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    unjudged: int = 0
    accepted: list[tuple[str, str, str]] = field(default_factory=list)
    seconds: float = 0.0
    answers: int = 0


def ground_truths(file: Path) -> list[str]:
    """One for each different prompt of a file."""
    rows = pq.read_table(file, columns=["prompt", "reward_model"]).to_pylist()
    return list({str(row["prompt"]): str(row["reward_model"]["ground_truth"]) for row in rows}.values())


def parquet_files(paths: list[Path]) -> list[Path]:
    """The files, and those in the folders."""
    return [found for path in paths for found in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]


def boxed(answer: str) -> str:
    """A response that gives this answer."""
    return f"So the answer is \\boxed{{{answer}}}."


def judge(truths: list[str], verifier: Verifier, workers: int) -> Result:
    """Every ground truth against itself, and everything that can be made wrong of it."""
    result = Result(len(truths))
    wrong = [(kind, truth, answer) for truth in truths for kind, answer in perturbed(truth)]
    start = time.perf_counter()
    pairs = ((boxed(truth), truth) for truth in truths)
    for truth, graded in zip(truths, grade_many(verifier, pairs, workers), strict=True):
        result.outcomes[graded.outcome] += 1
        if graded.outcome != "correct":
            result.exceptions.append((truth, graded))
    pairs = ((boxed(answer), truth) for _, truth, answer in wrong)
    for (kind, truth, answer), graded in zip(wrong, grade_many(verifier, pairs, workers), strict=True):
        result.tried[kind] += 1
        result.refused[kind] += graded.outcome != "correct"
        result.unjudged += graded.outcome in ("timeout", "error")
        if graded.outcome == "correct":
            result.accepted.append((kind, truth, answer))
    result.seconds = time.perf_counter() - start
    result.answers = len(truths) + len(wrong)
    return result


def _cells(name: str, result: Result) -> Iterator[str]:
    yield name
    yield str(result.problems)
    yield f"{result.outcomes['correct'] / max(1, result.problems):.2%}"
    yield f"{sum(result.refused.values())} of {sum(result.tried.values())}"
    yield str(result.unjudged)
    yield f"{result.answers / result.seconds:.0f}"


def main(
    files: Annotated[list[Path], typer.Argument(help="parquet files, or folders of them")],
    verifier: Annotated[str, typer.Option(help="math_verify, exact, or pkg://module:function")] = "math_verify",
    workers: Annotated[int, typer.Option(help="grading processes")] = 2,
    keep: Annotated[bool, typer.Option(help=f"write the counts to {RESULTS.name}/files.json")] = False,
) -> None:
    """Grade every ground truth in a box and its perturbations; exit 1 if one of the former is not correct."""
    chosen = get(verifier)
    # The start of the processes is not what is measured.
    list(grade_many(chosen, [(boxed("1"), "1")] * 8 * workers, workers))
    table = Table(
        "file", "problems", "correct", "wrong answers refused", "not judged", "answers/s", title=chosen.version
    )
    failed = False
    rows = []
    for file in parquet_files(files):
        result = judge(ground_truths(file), chosen, workers)
        rows.append(list(_cells(file.stem, result)))
        table.add_row(*rows[-1])
        for truth, graded in result.exceptions:
            console.print(f"{file.stem}: {truth!r} is {graded.outcome}: {graded.detail}", markup=False)
        for kind, truth, answer in result.accepted:
            console.print(f"{file.stem}: {kind}: {answer!r} is accepted for {truth!r}", markup=False)
        failed = failed or bool(result.exceptions)
    console.print(table)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "files.json").write_text(json.dumps({"verifier": chosen.version, "rows": rows}, indent=1) + "\n")
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)

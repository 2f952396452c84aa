"""result.json: the value of every column with its interval, and everything that says where it comes from."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verl_ext.tables.evaluating import folder_name, measured, steps
from verl_ext.tables.parse import METRIC
from verl_ext.tables.schema import Column
from verl_ext.tables.work import write_json

if TYPE_CHECKING:
    from verl_ext.tables.job import Job

UNIT = "per cent"
_RESAMPLES = 10_000
_TAILS = (0.025, 0.975)
Values = NDArray[np.float64]


def column_values(folder: Path, column: Column) -> Values:
    """One value a problem, in [0, 1], from the scores of a column's benchmark.

    Args:
        folder: with scores.parquet.
        column: not a mean of others.

    Returns:
        [P], whose mean is the column's value.
    """
    import pyarrow.parquet as pq

    from verl_ext.evaluation.metrics import avg_at_k, pass_at_k

    rows = sorted(pq.read_table(folder / "scores.parquet").to_pylist(), key=lambda row: (row["index"], row["sample"]))
    samples = 1 + max(row["sample"] for row in rows)
    good = [row["boxed"] if column.metric == "fmt" else row["outcome"] == "correct" for row in rows]
    matrix = np.array(good, dtype=float).reshape(-1, samples)
    match = METRIC.fullmatch(str(column.metric))
    assert match is not None
    if match[2]:
        return pass_at_k(matrix, int(match[2]))
    return avg_at_k(matrix, int(match[1]) if match[1] else None)


def mean_interval(parts: Mapping[str, tuple[str, Values]], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean of columns.

    Problems are drawn with replacement benchmark by benchmark, and columns of one benchmark share the draw: they are
    about the same problems.

    Args:
        parts: column -> benchmark and its values [P].
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(_RESAMPLES)
    for benchmark in dict.fromkeys(name for name, _ in parts.values()):
        values = np.stack([own for name, own in parts.values() if name == benchmark])
        count = values.shape[1]
        # Only the sum over a benchmark's columns matters for the mean.
        of_problem = values.sum(axis=0) / count
        for start in range(0, _RESAMPLES, 1000):
            draws = rng.integers(0, count, size=(1000, count))
            total[start : start + 1000] += of_problem[draws].sum(axis=1)
    low, high = np.quantile(total / len(parts), _TAILS)
    return float(low), float(high)


def obtained(columns: tuple[Column, ...], evaluation: Path) -> dict[str, dict[str, float]]:
    """Value, low, high (per cent) and number of problems of every column."""
    from verl_ext.evaluation.metrics import bootstrap

    plain = {c.name: (str(c.benchmark), column_values(evaluation / folder_name(c), c)) for c in columns if c.benchmark}
    found = {}
    for column in columns:
        if column.benchmark:
            metric = bootstrap(plain[column.name][1])
            value, low, high, count = metric.value, metric.low, metric.high, metric.n
        else:
            parts = {name: plain[name] for name in column.mean_of}
            value = float(np.mean([values.mean() for _, values in parts.values()]))
            low, high = mean_interval(parts)
            count = sum({name: len(values) for name, values in parts.values()}.values())
        numbers = {"value": value, "low": low, "high": high}
        found[column.name] = {**{name: round(100 * number, 6) for name, number in numbers.items()}, "n": count}
    return found


def average(columns: tuple[Column, ...], values: Mapping[str, Mapping[str, float]]) -> float:
    """Mean over the measured columns, rates of boxed answers left out: what the rule ``best`` compares."""
    plain = [column for column in columns if column.benchmark]
    own = [values[column.name]["value"] for column in plain if column.metric != "fmt"]
    own = own or [values[column.name]["value"] for column in plain]
    return sum(own) / len(own)


def write(job: Job) -> Path:
    """Sum up the evaluation, choose the checkpoint by the rule, and write result.json."""
    from verl_ext.demo.report import versions

    columns = job.table.columns
    by_step = {step: obtained(columns, job.work.evaluation / f"step_{step}") for step in steps(job)}
    averages = {step: average(columns, values) for step, values in by_step.items()}
    # Of equal averages the earliest step counts.
    chosen = max(averages, key=lambda step: (averages[step], -int(step)))
    stages = job.work.stages()
    result = {
        "row": job.row.reference,
        "label": job.row.label,
        "kind": job.row.kind,
        "seed": job.seed,
        "unit": UNIT,
        "columns": by_step[chosen],
        "checkpoint": {
            "rule": str(job.row.checkpoint) if job.row.kind != "evaluate" else "no training",
            "step": int(chosen),
            "averages": averages,
        },
        "definitions": {column.name: asdict(column) for column in columns},
        "decodings": {name: asdict(decoding) for name, decoding in job.table.decodings.items()},
        "template": job.row.template,
        "arguments": job.row.hydra_overrides(),
        "overrides": [] if job.row.kind == "evaluate" else list(job.overrides),
        "config_hash": job.config_hash,
        "commit": commit(),
        "versions": versions(),
        "verifier": stages["evaluate"]["inputs"]["verifier"],
        "data": job.work.outputs("data")["files"],
        "seconds": {stage: entry["seconds"] for stage, entry in stages.items() if stage != "result"},
        "finished": stages["evaluate"]["finished"],
        "notes": notes(job, chosen),
    }
    write_json(result, job.work.result_file)
    return job.work.result_file


def notes(job: Job, step: str) -> list[str]:
    """What the evaluation said limits the numbers of the chosen step."""
    from verl_ext.evaluation.summary import Summary

    folder = job.work.evaluation / f"step_{step}"
    return [f"{name}: {note}" for name in measured(job) for note in Summary.read(folder / name / "summary.json").notes]


def commit() -> str | None:
    """The commit of the checkout that verl_ext runs from, ``+changes`` if files differ; None outside one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return None
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    return head.stdout.strip() + ("+changes" if changed else "")

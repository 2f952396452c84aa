"""A column's value and interval from the scores of its benchmark, or from the columns that it is the mean of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verl_ext.recipe_files.parse import METRIC
from verl_ext.recipe_files.schema import Column
from verl_ext.tables.evaluating import folder_name

SCORES = "scores.parquet"
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

    rows = sorted(pq.read_table(folder / SCORES).to_pylist(), key=lambda row: (row["index"], row["sample"]))
    samples = 1 + max(row["sample"] for row in rows)
    good = [row["boxed"] if column.metric == "fmt" else row["outcome"] == "correct" for row in rows]
    matrix = np.array(good, dtype=float).reshape(-1, samples)
    match = METRIC.fullmatch(str(column.metric))
    assert match is not None
    if match[2]:
        return pass_at_k(matrix, int(match[2]))
    return avg_at_k(matrix, int(match[1]) if match[1] else None)


def mean_interval(parts: Sequence[tuple[str, Values]], shares: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean of columns.

    Problems are drawn with replacement benchmark by benchmark, and columns of one benchmark share the draw: they are
    about the same problems.

    Args:
        parts: benchmark and values [P] of each column.
        shares: what each column counts; they add up to 1.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(_RESAMPLES)
    for benchmark in dict.fromkeys(name for name, _ in parts):
        own = [share * values for share, (name, values) in zip(shares, parts, strict=True) if name == benchmark]
        count = len(own[0])
        # Only the sum over a benchmark's columns matters for the mean.
        of_problem = np.sum(own, axis=0) / count
        for start in range(0, _RESAMPLES, 1000):
            draws = rng.integers(0, count, size=(1000, count))
            total[start : start + 1000] += of_problem[draws].sum(axis=1)
    low, high = np.quantile(total, _TAILS)
    return float(low), float(high)


def obtained(columns: Sequence[Column], evaluation: Path) -> dict[str, dict[str, float]]:
    """Value, low, high (per cent) and number of problems of every column.

    Args:
        columns: with those that a mean is made of.
        evaluation: of one step, with a folder for each benchmark and decoding.
    """
    from verl_ext.evaluation.metrics import bootstrap

    plain = {c.name: (str(c.benchmark), column_values(evaluation / folder_name(c), c)) for c in columns if c.benchmark}
    found = {}
    for column in columns:
        if column.benchmark:
            metric = bootstrap(plain[column.name][1])
            value, low, high, count = metric.value, metric.low, metric.high, metric.n
        else:
            parts = [plain[name] for name in column.mean_of]
            value = column.mean([float(values.mean()) for _, values in parts])
            low, high = mean_interval(parts, column.shares)
            count = sum({name: len(values) for name, values in parts}.values())
        numbers = {"value": value, "low": low, "high": high}
        found[column.name] = {**{name: round(100 * number, 6) for name, number in numbers.items()}, "n": count}
    return found


def average(columns: Sequence[Column], values: Mapping[str, Mapping[str, float]]) -> float:
    """Mean over the measured columns, rates of boxed answers left out: what the rule ``best`` compares."""
    plain = [column for column in columns if column.benchmark]
    own = [values[column.name]["value"] for column in plain if column.metric != "fmt"]
    own = own or [values[column.name]["value"] for column in plain]
    return sum(own) / len(own)

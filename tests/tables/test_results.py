"""Columns from scores: values by hand, intervals of means, and the rule for the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tables
from tables import scores

from verl_ext.recipe_files.schema import Column
from verl_ext.tables.columns import average, column_values, mean_interval, obtained

# Three problems with four samples: correct 2, 0, 4 of 4; boxed 3, 1, 4 of 4.
CORRECT = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
BOXED = [[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]]


EQUAL = (0.5, 0.5)


def column(metric: str) -> Column:
    return Column("c", "b", metric, "drawn")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("avg@4", [2 / 4, 0, 1]),
        ("avg@1", [1, 0, 1]),  # the first samples
        ("avg@2", [1 / 2, 0, 1]),
        ("pass@1", [2 / 4, 0, 1]),
        ("pass@2", [1 - 1 / 6, 0, 1]),  # one of the six pairs holds neither correct sample
        ("pass@4", [1, 0, 1]),
        ("fmt", [3 / 4, 1 / 4, 1]),
    ],
)
def test_values_of_columns(tmp_path: Path, metric: str, expected: list[float]) -> None:
    scores(tmp_path / "b", CORRECT, BOXED)
    assert column_values(tmp_path / "b", column(metric)).tolist() == pytest.approx(expected)


def test_values_are_per_cent(tmp_path: Path) -> None:
    made = tables.table()
    scores(tmp_path / "demo_arithmetic.greedy", [[1], [0], [0], [0]])
    scores(tmp_path / "demo_arithmetic.drawn", [[1, 1, 0, 0], [0] * 4, [1] * 4, [0] * 4])
    found = obtained(made.columns, tmp_path)
    assert found["A"]["value"] == 25
    assert found["B"]["value"] == pytest.approx(100 * (5 / 6 + 0 + 1 + 0) / 4, abs=1e-5)
    assert found["Mean"]["value"] == pytest.approx((25 + 100 * (11 / 6) / 4) / 2, abs=1e-5)
    assert [found[name]["n"] for name in ("A", "B", "Mean")] == [4, 4, 4]
    for numbers in found.values():
        assert numbers["low"] <= numbers["value"] <= numbers["high"]


def test_interval_of_a_mean_over_different_problems() -> None:
    # Two benchmarks of 400 problems, half of them solved: the mean has variance (0.25/400)/2, so that its 95%
    # interval is 0.5 +- 1.96 * 0.017678 = 0.5 +- 0.03465.
    half = np.array([0.0, 1.0] * 200)
    low, high = mean_interval([("one", half), ("two", half)], EQUAL)
    assert (low, high) == (pytest.approx(0.46535, abs=2e-3), pytest.approx(0.53465, abs=2e-3))


def test_interval_of_a_mean_over_the_same_problems() -> None:
    # The same problems twice say no more than once: 0.5 +- 1.96 * 0.025 = 0.5 +- 0.049.
    half = np.array([0.0, 1.0] * 200)
    low, high = mean_interval([("one", half), ("one", half)], EQUAL)
    assert (low, high) == (pytest.approx(0.451, abs=2e-3), pytest.approx(0.549, abs=2e-3))
    # And opposite values cancel: every problem's mean is 0.5, whatever is drawn.
    assert mean_interval([("one", half), ("one", 1 - half)], EQUAL) == pytest.approx((0.5, 0.5))


def test_interval_of_a_weighted_mean() -> None:
    # Weights 3 and 1 of benchmarks with 400 and 100 problems, half of them solved:
    # variance (3/4)^2 0.25/400 + (1/4)^2 0.25/100 = 0.00035156 + 0.00015625 = 0.00050781, 1.96 * 0.022535 = 0.04417.
    large, small = np.array([0.0, 1.0] * 200), np.array([0.0, 1.0] * 50)
    low, high = mean_interval([("one", large), ("two", small)], (0.75, 0.25))
    assert (low, high) == (pytest.approx(0.45583, abs=2e-3), pytest.approx(0.54417, abs=2e-3))
    # Weights by the numbers of problems: the mean over all 500 pooled, with its variance 0.25/500, 1.96 * 0.022361.
    low, high = mean_interval([("one", large), ("two", small)], (0.8, 0.2))
    assert (low, high) == (pytest.approx(0.45617, abs=2e-3), pytest.approx(0.54383, abs=2e-3))


def test_value_of_a_weighted_mean(tmp_path: Path) -> None:
    made = tables.table(tables.TEXT.replace("mean_of: [A, B]", "mean_of: [A, B], weights: [3, 1]"))
    scores(tmp_path / "demo_arithmetic.greedy", [[1], [0], [0], [0]])
    scores(tmp_path / "demo_arithmetic.drawn", [[1] * 4, [1] * 4, [1] * 4, [0] * 4])
    found = obtained(made.columns, tmp_path)
    assert found["Mean"]["value"] == (3 * 25 + 75) / 4  # 37.5; the plain mean is 50
    assert found["Mean"]["low"] < 37.5 < found["Mean"]["high"]


def test_the_best_step_has_the_best_mean_of_measured_columns() -> None:
    columns = tables.table().columns
    values = {"A": {"value": 10.0}, "B": {"value": 30.0}, "Mean": {"value": 99.0}}
    assert average(columns, values) == 20.0
    boxed = (*columns, Column("F", "b", "fmt", "drawn"))
    assert average(boxed, {**values, "F": {"value": 100.0}}) == 20.0


def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, steps: dict[int, int]) -> dict[str, Any]:
    """The result of a run whose steps solve so many of four problems."""
    job = tables.job(tmp_path, "one", text=tables.TEXT.replace("seeds: [1, 2]", f"checkpoint: {rule}"))
    for step, solved in steps.items():
        one = [[1]] * solved + [[0]] * (4 - solved)
        scores(job.work.evaluation / f"step_{step}" / "demo_arithmetic.greedy", one)
        scores(job.work.evaluation / f"step_{step}" / "demo_arithmetic.drawn", [row * 4 for row in one])
    return tables.finish(job, list(steps), monkeypatch)


def test_result_of_the_best_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = finished(tmp_path, monkeypatch, "{rule: best, every: 10}", {10: 1, 20: 3, 30: 3, 40: 2})
    assert found["checkpoint"] == {
        "rule": "best of every 10 steps",
        "step": 20,  # the first of two equals
        "averages": {"10": 25.0, "20": 75.0, "30": 75.0, "40": 50.0},
    }
    assert found["columns"]["A"]["value"] == 75.0
    assert found["notes"] == ["note of 20"]


def test_result_holds_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = finished(tmp_path, monkeypatch, "{rule: last}", {8: 2})
    assert found["checkpoint"] == {"rule": "last step", "step": 8, "averages": {"8": 50.0}}
    assert found["seconds"] == {"data": 1.0, "export": 2.5, "evaluate": 3.0}
    assert (found["seed"], found["config_hash"], found["commit"], found["verifier"]) == (1, "0123", "abc", "v 1")
    assert found["data"] == {"demo_arithmetic/demo": "abc"}
    assert "verl" in found["versions"]
    assert found["arguments"][-1] == "experiment=demo"

"""The file of a result: what goes in comes out, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from verl_ext.study.results import CURVES, Result, read_all

STEPS = 2
RESULT = Result(
    study="small", model="tiny_dense", method="espo", seed=1, steps=STEPS, arguments=("algo=espo",), commit="abc",
    versions={"verl": "0.9.1"}, finished="2026-01-31T12:00:00Z", seconds=100.0, startup_seconds=50.0,
    validation={"step": [0, 2], "accuracy": [0.25, 0.5], "problems": 256},
    curves={name: [1.0, 2.0] for name in CURVES}, phases={"rollout": [3.0, 4.0]},
)  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "tiny_dense" / "espo-seed1.json")
    assert read_all(tmp_path) == [RESULT]
    assert read_all(tmp_path / "absent") == []


def test_numbers_have_six_digits_and_a_curve_a_line(tmp_path: Path) -> None:
    curves = {**RESULT.curves, "entropy": [0.123456789, 1e-9]}
    dataclasses.replace(RESULT, curves=curves).write(tmp_path / "one.json")
    assert '  "entropy": [0.123457, 1e-09],\n' in (tmp_path / "one.json").read_text()


def test_results_are_sorted_by_model_method_and_seed(tmp_path: Path) -> None:
    for model, method, seed in (("b", "x", 10), ("b", "x", 9), ("a", "z", 1)):
        one = dataclasses.replace(RESULT, model=model, method=method, seed=seed)
        one.write(tmp_path / model / f"{method}-seed{seed}.json")
    assert [(one.model, one.method, one.seed) for one in read_all(tmp_path)] == [
        ("a", "z", 1), ("b", "x", 9), ("b", "x", 10),
    ]  # fmt: skip


def test_another_format_other_keys_and_other_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    RESULT.write(path)
    good = json.loads(path.read_text())
    for change, message in (
        ({"format": 2}, "has format 2"),
        ({"colour": 1}, "keys differ from the format's: colour"),
        ({"curves": {**good["curves"], "reward": [1.0]}}, "curve reward has 1 numbers for 2 steps"),
        ({"curves": {"step": [1, 2]}}, "there is no curve clip_low_sequences"),
        ({"phases": {"rollout": []}}, "rollout has 0 numbers"),
        ({"validation": {"step": [0], "accuracy": [], "problems": 1}}, "another number of steps"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=message):
            Result.read(path)

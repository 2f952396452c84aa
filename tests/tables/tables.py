"""Tables, jobs and results made for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from verl_ext.recipe_files.parse import parse
from verl_ext.recipe_files.schema import Table
from verl_ext.tables.job import Job, Places

TEXT = """
title: A table
source: "arXiv 1234.56789, table 1"
template: demo
decodings:
  greedy: {temperature: 0.0, top_p: 1.0, samples: 1, max_tokens: 64}
  drawn: {temperature: 1.0, top_p: 1.0, samples: 4, max_tokens: 64}
columns:
  - {name: A, benchmark: demo_arithmetic, metric: avg@1, decoding: greedy}
  - {name: B, benchmark: demo_arithmetic, metric: pass@2, decoding: drawn}
  - {name: Mean, mean_of: [A, B]}
defaults:
  choices: {experiment: demo, model: tiny_dense, data: demo_arithmetic, backend: cpu}
rows:
  - {name: base, label: Base, kind: evaluate, choices: {model: tiny_dense}, published: {A: 10, B: 20.5, Mean: null}}
  - {name: one, label: "One | two", choices: {algo: espo}, seeds: [1, 2], published: {A: 50, B: null, Mean: 40}}
  - {name: other, label: Other, panel: Second, choices: {algo: grpo}, published: {A: 1, B: 2, Mean: 1.5}}
  - {name: gain, label: Gain, panel: Second, kind: derived, derived: {difference: [one, base]},
     published: {A: 40, B: null, Mean: null}}
  - {name: again, label: Again, panel: Second, kind: same_as, same_as: p/t/one, published: {A: 50, B: null, Mean: 40}}
"""


def table(text: str = TEXT) -> Table:
    return parse(text, "p", "t")


def job(tmp_path: Path, row: str = "base", seed: int = 1, text: str = TEXT, overrides: tuple[str, ...] = ()) -> Job:
    found = table(text)
    places = Places(tmp_path / "out", tmp_path / "data", tmp_path / "assets")
    return Job(found, found.by_name[row], seed, places, overrides)


def scores(folder: Path, correct: list[list[int]], boxed: list[list[int]] | None = None) -> None:
    """scores.parquet of some problems' samples, 1 for the good ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "index": index,
            "sample": sample,
            "outcome": "correct" if good else "timeout" if sample else "wrong",
            "boxed": bool((boxed or correct)[index][sample]),
        }
        for index, samples in enumerate(correct)
        for sample, good in enumerate(samples)
    ]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows[::-1]), folder / "scores.parquet")


def finish(job: Job, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Note the stages of a job whose scores are there as done, and return its result."""
    from verl_ext.tables import results

    job.work.begin("data", {})
    job.work.spend("data", 1.0, {"files": {"demo_arithmetic/demo": "abc"}})
    job.work.begin("export", {})
    job.work.spend("export", 2.5, {"models": {str(step): {} for step in steps}})
    job.work.begin("evaluate", {"verifier": "v 1"})
    job.work.spend("evaluate", 3.0, {})
    monkeypatch.setattr(results, "notes", lambda job, step: [f"note of {step}"])
    monkeypatch.setattr(results, "commit", lambda: "abc")
    monkeypatch.setattr(type(job), "config_hash", "0123")
    job.work.begin("result", {})
    file = results.write(job)
    job.work.spend("result", 0.1, {})
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def result(row: str, seed: int, columns: dict[str, tuple[float, float, float]], **changes: Any) -> dict[str, Any]:
    """A result of the table above: column -> value, low, high."""
    made = table()
    definitions = {
        column.name: {**column.__dict__, "mean_of": list(column.mean_of), "weights": []} for column in made.columns
    }
    numbers = {name: {"value": value, "low": low, "high": high, "n": 4} for name, (value, low, high) in columns.items()}
    return {
        "row": f"p/t/{row}",
        "seed": seed,
        "columns": numbers,
        "checkpoint": {"rule": "last step", "step": 8, "averages": {"8": 1.0}},
        "definitions": {name: definitions[name] for name in numbers},
        "decodings": {name: dict(decoding.__dict__) for name, decoding in made.decodings.items()},
        "arguments": made.by_name[row].hydra_overrides(),
        "overrides": [],
        "config_hash": "0123456789abcdef",
        "commit": "abc123",
        "versions": {"verl": "0.9.1", "torch": "2.0"},
        "verifier": "math-verify 0.9",
        "seconds": {"data": 1.2, "evaluate": 8.6},
        "notes": [],
        **changes,
    }

"""Small sources in each schema, made here, and where the real files lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BENCHMARKS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"
DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def real(name: str) -> Path:
    """A real file, or the end of the test with a message."""
    file = BENCHMARKS / f"{name}.parquet"
    if not file.exists():
        pytest.skip(f"the real file {file.name} is not in ../shared/data/benchmarks")
    return file


def verl_row(problem: str, answer: Any, system: str | None = None, **extra: Any) -> dict[str, Any]:
    """A row in verl's schema."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return {
        "data_source": "made_here",
        "prompt": [*messages, {"role": "user", "content": problem}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"index": extra.pop("index", 0), **extra},
    }


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def thirty(answer: Any = None) -> list[tuple[str, Any]]:
    """As many problems as a contest has, all different: 0 * 7 + 1 = ?, 1 * 7 + 1 = ? ..."""
    return [(f"{n} * 7 + 1 = ?", str(7 * n + 1) if answer is None else answer) for n in range(30)]

"""The problems of a benchmark file in verl's schema, checked before anything is generated."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.evaluation.request import BenchmarkFile, RequestError

_SHOWN = 5
_COLUMNS = ("prompt", "reward_model")


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        index: its row in the file, from 0.
        messages: the prompt, templates applied: a list of messages with role and content.
        ground_truth: the expected answer.
    """

    index: int
    messages: Sequence[dict[str, str]]
    ground_truth: str


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was read.

    Attributes:
        name, file, sha256: what its results go under, the file and its hash.
        problems: of the file.
        answer_format: where its prompts ask for the answer (``extra_info.answer_format``); None if it does not say.
    """

    name: str
    file: Path
    sha256: str
    problems: Sequence[Problem]
    answer_format: str | None = None


def read(file: BenchmarkFile) -> Benchmark:
    """Read and check a benchmark.

    Raises:
        RequestError: with every fault of the file, each with the rows it concerns.
    """
    path = Path(file.parquet)
    try:
        content = path.read_bytes()
        table = pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        raise RequestError(
            [
                f"benchmark {file.name}: {path} cannot be read as parquet ({type(error).__name__}: {error}); "
                "`verl-ext data prepare` writes such files"
            ]
        ) from error
    absent = [name for name in _COLUMNS if name not in table.column_names]
    if absent or not table.num_rows:
        what = f"has no column {' and no column '.join(absent)}" if absent else "has no row"
        raise RequestError([f"benchmark {file.name}: {path} {what}; verl's schema is needed"])
    rows = table.select(_COLUMNS).to_pylist()
    said = table["extra_info"].to_pylist() if "extra_info" in table.column_names else [None] * len(rows)
    formats = {(info or {}).get("answer_format") for info in said}
    faults = _faults(rows)
    if len(formats) > 1:
        named = ", ".join(sorted(map(str, formats)))
        faults.append(f"rows differ in extra_info.answer_format ({named}); give each format a file of its own")
    if faults:
        raise RequestError([f"benchmark {file.name}: {fault}" for fault in faults])
    problems = [
        Problem(
            index,
            [{"role": message["role"], "content": message["content"]} for message in row["prompt"]],
            row["reward_model"]["ground_truth"],
        )
        for index, row in enumerate(rows)
    ]
    repeated = _repeated(problems)
    if repeated:
        raise RequestError([f"benchmark {file.name}: {repeated}"])
    return Benchmark(file.name, path, hashlib.sha256(content).hexdigest(), problems, formats.pop())


def _faults(rows: Sequence[dict[str, Any]]) -> list[str]:
    checks = {
        "the prompt is not a list of messages with role and content": [
            n for n, row in enumerate(rows) if not _is_prompt(row["prompt"])
        ],
        "reward_model.ground_truth is not a text that holds something": [
            n for n, row in enumerate(rows) if not _has_truth(row["reward_model"])
        ],
    }
    return [f"{what} in {_rows(found)}" for what, found in checks.items() if found]


def _is_prompt(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(m, dict) and all(isinstance(m.get(key), str) for key in ("role", "content")) for m in prompt)
    )


def _has_truth(reward_model: Any) -> bool:
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    return isinstance(truth, str) and bool(truth.strip())


def _repeated(problems: Sequence[Problem]) -> str | None:
    # Copies of a problem would pass for further problems, and make every interval too narrow.
    keys = [(*((m["role"], m["content"]) for m in problem.messages), problem.ground_truth) for problem in problems]
    counts = Counter(keys)
    again = [problem.index for problem, key in zip(problems, keys, strict=True) if counts[key] > 1]
    if not again:
        return None
    return (
        f"{len(problems)} rows hold {len(counts)} different problems ({_rows(again)} are repeated); samples are asked "
        "for with the decoding, not by repeating rows. `verl-ext data prepare` undoes the repetition"
    )


def _rows(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:_SHOWN]))
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    return f"row{'s' if len(indices) > 1 else ''} {shown}{more}"

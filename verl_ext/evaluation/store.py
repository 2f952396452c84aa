"""The folder of one benchmark's results: what is there, what is missing, and files that are whole or absent.

::

    request.json         what the responses depend on, a resumed run must ask for the same; their answer format
    engine.json          dtype, max_model_len, and the problems whose responses had less room than asked for
    problems.parquet     index, messages, ground_truth
    parts/               responses, while not all of them are there
    generations.parquet  index, sample, prompt (as the model got it), response, tokens, finish_reason
    scores.parquet       index, sample, outcome, boxed, verifier, detail
    summary.json         metrics and where they come from
    rescored/<verifier>/ scores.parquet and summary.json of another verifier
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.evaluation.benchmark import Benchmark, Problem
from verl_ext.evaluation.request import Decoding, RequestError, differences
from verl_ext.rewards.answer_text import DEFAULT_FORMAT, AnswerFormat

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
PROBLEMS = pa.schema([("index", pa.int64()), ("messages", pa.list_(_MESSAGE)), ("ground_truth", pa.string())])
GENERATIONS = pa.schema(
    [
        ("index", pa.int64()),
        ("sample", pa.int64()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("tokens", pa.int64()),
        ("finish_reason", pa.string()),
    ]
)
SCORES = pa.schema(
    [
        ("index", pa.int64()),
        ("sample", pa.int64()),
        ("outcome", pa.string()),
        ("boxed", pa.bool_()),
        ("verifier", pa.string()),
        ("detail", pa.string()),
    ]
)
_FLUSH_S = 5.0


@dataclass(frozen=True)
class Generation:
    """One response. `tokens` is None where an endpoint does not count them."""

    index: int
    sample: int
    prompt: str
    response: str
    tokens: int | None
    finish_reason: str


def write_table(rows: Sequence[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write a parquet file that is either whole or absent."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(list(rows), schema), waiting, compression="zstd")
    _publish(waiting, path)


def write_json(data: Any, path: Path) -> None:
    """Write a JSON file that is either whole or absent."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    waiting.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    _publish(waiting, path)


def _publish(waiting: Path, path: Path) -> None:
    with waiting.open("rb") as file:
        os.fsync(file.fileno())
    waiting.rename(path)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second evaluation out of the folder; the lock goes with the process, however that ends.

    Raises:
        RequestError: if another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                [f"{out}: another evaluation is writing here; wait for it or use another folder"]
            ) from None
        yield


@dataclass(frozen=True)
class Store:
    """The folder of one benchmark."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def generations_file(self) -> Path:
        return self.folder / "generations.parquet"

    def claim(
        self, identity: dict[str, Any], model: str, benchmark: Benchmark, answer_format: AnswerFormat = DEFAULT_FORMAT
    ) -> None:
        """Take the folder for a request, or find that it already belongs to the same.

        The responses do not depend on `answer_format`, so that it may be another than before.

        Raises:
            RequestError: if it belongs to another; the message says in what they differ.
        """
        record = self.folder / "request.json"
        if record.exists():
            found = differences(self.request()["identity"], identity)
            if found:
                raise RequestError(
                    [f"{self.folder} holds another evaluation; remove it or use another folder. In it:", *found]
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.rglob(".*.tmp"):
            left.unlink()
        write_table([asdict(problem) for problem in benchmark.problems], PROBLEMS, self.folder / "problems.parquet")
        facts = {"identity": identity, "model": model, "file": str(benchmark.file), "answer_format": answer_format}
        write_json(facts, record)

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    def request(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "request.json").read_text(encoding="utf-8"))
        return found

    @property
    def answer_format(self) -> AnswerFormat:
        """Where the responses' answers are looked for."""
        found: AnswerFormat = self.request().get("answer_format", DEFAULT_FORMAT)
        return found

    def note_engine(self, facts: dict[str, Any]) -> None:
        """Keep what the engine made of the request; a resumed run adds the problems it found short of room."""
        before = self.engine_facts().get("short_of_room", [])
        short = sorted({*before, *facts["short_of_room"]})
        write_json({**facts, "short_of_room": short}, self.folder / "engine.json")

    def engine_facts(self) -> dict[str, Any]:
        """What `note_engine` kept; empty where an endpoint answered."""
        file = self.folder / "engine.json"
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return found

    def decoding(self) -> Decoding:
        return Decoding(**self.request()["identity"]["decoding"])

    def problems(self) -> list[Problem]:
        return [Problem(**row) for row in pq.read_table(self.folder / "problems.parquet").to_pylist()]

    def total(self) -> int:
        """Number of responses asked for."""
        return int(pq.read_metadata(self.folder / "problems.parquet").num_rows) * self.decoding().samples

    def done(self) -> int:
        """Number of responses on disk; reads footers only, so that it can be asked often."""
        files = [self.generations_file] if self.generations_file.exists() else self._part_files()
        return sum(_rows_of(file) for file in files)

    def _part_files(self) -> list[Path]:
        return sorted(self.parts.glob("[0-9]*.parquet"))

    def generations(self) -> list[Generation]:
        """The responses on disk, in the order of problem and sample."""
        files = [self.generations_file] if self.generations_file.exists() else self._part_files()
        rows = [Generation(**row) for file in files for row in pq.read_table(file).to_pylist()]
        # A child that outlived its parent for a moment may have written what its successor wrote too.
        first: dict[tuple[int, int], Generation] = {}
        for row in rows:
            first.setdefault((row.index, row.sample), row)
        return [first[key] for key in sorted(first)]

    def pending(self) -> list[tuple[Problem, int]]:
        """Problem and sample of every response that is not on disk."""
        have = {(row.index, row.sample) for row in self.generations()}
        samples = range(self.decoding().samples)
        return [(problem, n) for problem in self.problems() for n in samples if (problem.index, n) not in have]

    def complete(self) -> bool:
        """Whether all responses are there; if so they are put into one file."""
        if not self.generations_file.exists():
            if self.pending():
                return False
            write_table([asdict(row) for row in self.generations()], GENERATIONS, self.generations_file)
        if self.parts.exists():
            shutil.rmtree(self.parts)
        return True


@cache
def _rows_of(file: Path) -> int:
    return int(pq.read_metadata(file).num_rows)


class PartWriter:
    """Collects responses and writes them as parts; a context manager that writes the rest at its end."""

    def __init__(self, store: Store, rows: int) -> None:
        self._store = store
        self._limit = rows
        self._rows: list[Generation] = []
        self._since = time.monotonic()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.flush()

    def add(self, row: Generation) -> None:
        self._rows.append(row)
        if len(self._rows) >= self._limit or time.monotonic() - self._since >= _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        self._since = time.monotonic()
        if not self._rows:
            return
        self._store.parts.mkdir(exist_ok=True)
        numbers = [int(path.stem.partition("-")[0]) for path in self._store.parts.glob("[0-9]*.parquet")]
        # With the process in its name a part can never take the place of another's.
        path = self._store.parts / f"{max(numbers, default=-1) + 1:06d}-{os.getpid()}.parquet"
        write_table([asdict(row) for row in self._rows], GENERATIONS, path)
        self._rows = []

"""Read what a run has logged: verl's file logger or console, TensorBoard's event files, wandb, offline or exported.

All of them come down to rows of (step, metric -> value), of which `gather` makes the records of a history.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from verl_ext.run_report import console_log, wandb_file
from verl_ext.run_report.history import History, Record

Row = tuple[int, Mapping[str, Any]]
ATTEMPT = re.compile(r"^(?:metrics(?:-(\d+))?\.jsonl|train\.(\d+)\.log)$")
EVENTS = "events.out.tfevents"
STEPS = ("_step", "step", "Step", "training/global_step", "global_step")
"""Names that a column of steps has in exports of wandb, best first."""
_SHOWN = 8


class SourceError(ValueError):
    """What lies at a path is not a run that can be read; the message says why and what to give instead."""


@dataclass(frozen=True)
class Logged:
    """What was read.

    Attributes:
        history: the records, one a step.
        kind: who wrote it, in words.
        files: what was read, in order.
        label: name of the run inside of its file; empty where the file holds one run.
        notes: what a reader of the report should know about the reading.
    """

    history: History
    kind: str
    files: tuple[Path, ...]
    label: str = ""
    notes: tuple[str, ...] = ()


def read(path: Path) -> list[Logged]:
    """The runs at a path: one, or several where an export holds several.

    Args:
        path: a file, or a folder in which the log of one run lies. Logs of several attempts at a run,
            ``metrics-1.jsonl``, ``metrics-2.jsonl`` ..., are joined; of a step in two of them the later one counts.

    Raises:
        SourceError: nothing there, several runs there, or a file that cannot be read.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    files = (path,) if path.is_file() else _inside(path)
    found = _reader(files[0])(files)
    empty = [logged for logged in found if not logged.history.records]
    if empty or not found:
        raise SourceError(f"{files[0]}: holds no step of a run; {_accepted()}")
    return found


def _accepted() -> str:
    return (
        "give a log of verl's file logger (.jsonl) or of `verl-ext train` (train.1.log), TensorBoard's event files, a "
        "wandb folder (offline-run-...), or a history exported from wandb (.csv, .json)"
    )


def _inside(folder: Path) -> tuple[Path, ...]:
    """The files of the one run in a folder."""
    candidates: dict[Path, list[Path]] = {}
    for pattern in ("**/*.jsonl", f"**/{EVENTS}*", "**/*.wandb", "**/train.*.log"):
        for file in sorted({file.resolve() for file in folder.glob(pattern) if file.is_file()}):
            if file.suffix == ".jsonl" and not _is_log(file):
                continue
            # Attempts of one run and event files beside each other belong together; other files do not.
            together = ATTEMPT.match(file.name) or file.name.startswith(EVENTS)
            candidates.setdefault(file.parent if together else file, []).append(file)
        if candidates:
            break
    if not candidates:
        raise SourceError(f"{folder}: no log of a run in this folder; {_accepted()}")
    if len(candidates) > 1:
        names = [str(place) for place in candidates]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise SourceError(
            f"{folder}: {len(names)} runs lie here; name those you want: {', '.join(names[:_SHOWN])}{more}"
        )
    return tuple(sorted(next(iter(candidates.values())), key=_attempt))


def _attempt(file: Path) -> tuple[int, str]:
    match = ATTEMPT.match(file.name)
    return int(match[1] or match[2] or 0) if match else 0, file.name


def _is_log(file: Path) -> bool:
    with file.open("rb") as lines:
        return line_of(lines.readline()) is not None


def _reader(file: Path) -> Callable[[tuple[Path, ...]], list[Logged]]:
    if file.name.startswith(EVENTS):
        return _tensorboard
    readers = {".jsonl": _lines, ".log": of_logs, ".json": _json, ".csv": _csv, ".wandb": _wandb}
    if file.suffix not in readers:
        raise SourceError(f"{file}: not a log that can be read; {_accepted()}")
    return readers[file.suffix]


def gather(rows: Iterable[Row], notes: Iterable[str] = ()) -> tuple[History, tuple[str, ...]]:
    """Records in the order of their steps, and notes with one on the values that are not finite.

    Rows of the same step are joined, the later one's values counting. Texts and other values that are no numbers are
    passed over.
    """
    steps: dict[int, dict[str, float]] = {}
    lost: Counter[str] = Counter()
    for step, data in rows:
        kept = steps.setdefault(step, {})
        for name, value in data.items():
            if value is None or value in ("NaN", "Infinity", "-Infinity"):
                lost[name] += 1
            elif isinstance(value, int | float):
                if math.isfinite(value):
                    kept[name] = float(value)
                else:
                    lost[name] += 1
    history = History([Record(step, values) for step, values in sorted(steps.items())])
    shown = ", ".join(f"{name} ({count} steps)" for name, count in lost.most_common(_SHOWN))
    more = f" and {len(lost) - _SHOWN} more metrics" if len(lost) > _SHOWN else ""
    return history, (*notes, *([f"not finite: {shown}{more}"] if lost else []))


def line_of(line: bytes) -> Row | None:
    """A line of verl's file logger, or of a wandb history written as JSON lines; None if it is neither."""
    try:
        raw = json.loads(line)
    except ValueError:
        raw = None
    match raw:
        case {"step": int(step), "data": dict(data)}:
            return step, data
        case {"_step": _}:
            return _flat(raw)
    return None


def _flat(row: Mapping[str, Any]) -> Row | None:
    """A row in which the step is one of the values. wandb's own columns begin with an underscore."""
    name = next((name for name in STEPS if isinstance(row.get(name), int | float)), None)
    if name is None or not math.isfinite(row[name]):
        return None
    return int(row[name]), {key: value for key, value in row.items() if not key.startswith("_") and key != name}


def _lines(files: tuple[Path, ...]) -> list[Logged]:
    steps: dict[int, list[Row]] = {}
    notes = []
    for file in files:
        lines = file.read_bytes().splitlines()
        rows = [row for row in map(line_of, lines) if row is not None]
        if len(rows) < len(lines):
            notes.append(f"{len(lines) - len(rows)} of {len(lines)} lines of {file.name} are no records")
        fresh: dict[int, list[Row]] = {}
        for row in rows:
            fresh.setdefault(row[0], []).append(row)
        repeated = sorted(steps.keys() & fresh.keys())
        if repeated:
            notes.append(f"{len(repeated)} steps were run again in {file.name}, whose values count")
        steps |= fresh
    history, found = gather((row for rows in steps.values() for row in rows), notes)
    return [Logged(history, "verl's file logger", files, notes=found)]


def of_logs(files: tuple[Path, ...]) -> list[Logged]:
    """The run in the logs of its attempts, in order."""
    rows, notes = console_log.rows(files)
    history, found = gather(rows.items(), notes)
    return [Logged(history, "verl's console", files, notes=found)]


def _json(files: tuple[Path, ...]) -> list[Logged]:
    (file,) = files
    try:
        raw = json.loads(file.read_bytes())
    except ValueError as error:
        raise SourceError(f"{file}: no JSON ({error})") from None
    if isinstance(raw, dict) and raw and all(isinstance(column, dict) for column in raw.values()):
        # A data frame's `to_json()`: column -> index -> value.
        index = next(iter(raw.values()))
        raw = [{name: column.get(key) for name, column in raw.items() if column.get(key) is not None} for key in index]
    if not isinstance(raw, list) or not all(isinstance(row, dict) for row in raw):
        raise SourceError(f"{file}: not a history of wandb: a list of rows, or a data frame written by to_json()")
    history, notes = gather(row for row in map(_flat, raw) if row is not None)
    return [Logged(history, "wandb export", files, notes=notes)]


def _csv(files: tuple[Path, ...]) -> list[Logged]:
    """A data frame's `to_csv()`, or what the button under a chart gives: a column for each run and metric."""
    (file,) = files
    runs: dict[str, list[Row]] = {}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        for cells in csv.DictReader(lines):
            numbers = {name: _number(cell) for name, cell in cells.items() if name and cell}
            row = _flat({name: value for name, value in numbers.items() if value is not None})
            if row is None:
                continue
            for name, value in row[1].items():
                run, _, metric = name.rpartition(" - ")
                if not metric.endswith(("__MIN", "__MAX")):
                    runs.setdefault(run, []).append((row[0], {metric: value}))
    found = []
    for run, rows in runs.items():
        history, notes = gather(rows)
        found.append(Logged(history, "wandb export", files, run, notes))
    return found


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _wandb(files: tuple[Path, ...]) -> list[Logged]:
    if find_spec("wandb") is None:
        raise SourceError(
            f"{files[0]}: reading wandb's own files needs its package: pip install wandb, or export the history as CSV"
        )
    if len(files) > 1:
        raise SourceError(f"{files[0].parent}: several .wandb files lie here; name one")
    flat, broken = wandb_file.history(files[0])
    notes = ["the file is cut off or damaged near its end; what stands before was read"] if broken else []
    history, found = gather((row for row in map(_flat, flat) if row is not None), notes)
    return [Logged(history, "wandb", files, notes=found)]


def _tensorboard(files: tuple[Path, ...]) -> list[Logged]:
    if find_spec("tensorboard") is None:
        raise SourceError(f"{files[0]}: reading event files needs the tensorboard package: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows: list[Row] = []
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        rows += [(e.step, {tag: e.value}) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    history, notes = gather(rows)
    return [Logged(history, "TensorBoard", files, notes=notes)]

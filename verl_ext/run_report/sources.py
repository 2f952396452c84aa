"""Read what a run has logged: verl's file logger or console, TensorBoard's event files, wandb, offline or exported.

All of them come down to the rows of attempts at a run, of which `gather` makes the records of a history.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from verl_ext.run_report import attempts, console_log, wandb_file
from verl_ext.run_report.attempts import Attempt, Row, row_of, step_number
from verl_ext.run_report.history import History, Record

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
        path: a file, or a folder in which the log of one run lies. Attempts at a run are joined as
            `attempts.current` says, whether they stand in one file or in several: ``metrics-1.jsonl``,
            ``metrics-2.jsonl`` ..., event files of one folder, files of wandb with one run id.

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
            candidates.setdefault(_run_of(file), []).append(file)
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


def _run_of(file: Path) -> Path:
    """What the files of one run's attempts have in common, and no other's."""
    if file.suffix == ".wandb":  # wandb/offline-run-<time>-<id>/run-<id>.wandb
        return file.parents[1] / file.name
    return file.parent if ATTEMPT.match(file.name) or file.name.startswith(EVENTS) else file


def _attempt(file: Path) -> tuple[int, str]:
    """The order of attempts: by number, by the time in an event file's name, by that in wandb's folder's."""
    match = ATTEMPT.match(file.name)
    number = int(match[1] or match[2] or 0) if match else 0
    return number, f"{file.parent.name.removeprefix('offline-')}/{file.name}"


def _is_log(file: Path) -> bool:
    """Whether a record stands at its beginning; the very first line may be one that a killed run left unfinished."""
    with file.open("rb") as lines:
        return any(line_of(line) for line in itertools.islice(lines, _SHOWN))


def _reader(file: Path) -> Callable[[tuple[Path, ...]], list[Logged]]:
    if file.name.startswith(EVENTS):
        return _tensorboard
    readers = {".jsonl": _lines, ".log": of_logs, ".json": _json, ".csv": _csv, ".wandb": _wandb}
    if file.suffix not in readers:
        raise SourceError(f"{file}: not a log that can be read; {_accepted()}")
    return readers[file.suffix]


def gather(made: Sequence[Attempt], notes: Iterable[str] = ()) -> tuple[History, tuple[str, ...]]:
    """Records of the steps that count, and notes with those on void steps and on values that are not finite.

    Texts and other values that are no numbers are passed over.
    """
    steps, void = attempts.current(made)
    lost = Counter(
        name
        for data in steps.values()
        for name, value in data.items()
        if value is None or value in ("NaN", "Infinity", "-Infinity") or _infinite(value)
    )
    shown = ", ".join(f"{name} ({count} steps)" for name, count in lost.most_common(_SHOWN))
    more = f" and {len(lost) - _SHOWN} more metrics" if len(lost) > _SHOWN else ""
    history = History([Record.of(step, data) for step, data in steps.items()])
    return history, (*notes, *void, *([f"not finite: {shown}{more}"] if lost else []))


def _infinite(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isfinite(value)


def line_of(line: bytes) -> Row | None:
    """A line of verl's file logger, or of a wandb history written as JSON lines; None if it is neither."""
    if row := row_of(line):
        return row
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    return _flat(raw) if isinstance(raw, dict) and "_step" in raw else None


def _flat(row: Mapping[str, Any]) -> Row | None:
    """A row in which the step is one of the values. wandb's own columns begin with an underscore."""
    steps = ((name, step_number(row.get(name))) for name in STEPS)
    for name, step in steps:
        if step is not None:
            return Row(step, {key: value for key, value in row.items() if not key.startswith("_") and key != name})
    return None


def _lines(files: tuple[Path, ...]) -> list[Logged]:
    made: list[Attempt] = []
    notes = []
    for file in files:
        lines = file.read_bytes().splitlines()
        rows = [row for row in map(line_of, lines) if row is not None]
        if len(rows) < len(lines):
            notes.append(f"{len(lines) - len(rows)} of {len(lines)} lines of {file.name} are no records")
        made += _of_file(rows, file)
    history, found = gather(made, notes)
    return [Logged(history, "verl's file logger", files, notes=found)]


def _of_file(rows: Iterable[Row], file: Path) -> list[Attempt]:
    """The attempts in a file, called after it where it is one attempt's."""
    found = attempts.split(rows, file.name)
    if len(found) == 1:
        found[0].name = file.name
    return found


def of_logs(files: tuple[Path, ...]) -> list[Logged]:
    """The run in the logs of its attempts, in order."""
    history, notes = gather([attempt for file in files for attempt in _of_file(console_log.rows(file), file)])
    return [Logged(history, "verl's console", files, notes=notes)]


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
    history, notes = gather(_of_file(filter(None, map(_flat, raw)), file))
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
            for name, value in row.data.items():
                run, _, metric = name.rpartition(" - ")
                if not metric.endswith(("__MIN", "__MAX")):
                    runs.setdefault(run, []).append(Row(row.step, {metric: value}))
    found = []
    for run, rows in runs.items():
        history, notes = gather(_of_file(rows, file))
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
    made, notes = [], []
    for file in files:
        flat, broken = wandb_file.history(file)
        notes += [f"{file.name} is cut off or damaged near its end; what stands before was read"] if broken else []
        made += _of_file(filter(None, map(_flat, flat)), file)
    history, found = gather(made, notes)
    return [Logged(history, "wandb", files, notes=found)]


def _tensorboard(files: tuple[Path, ...]) -> list[Logged]:
    if find_spec("tensorboard") is None:
        raise SourceError(f"{files[0]}: reading event files needs the tensorboard package: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = []
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        steps: dict[int, dict[str, Any]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                steps.setdefault(event.step, {})[tag] = event.value
        made += [Attempt(file.name, steps)] if steps else []  # a writer makes its file before it has anything to write
    history, notes = gather(made)
    return [Logged(history, "TensorBoard", files, notes=notes)]

"""Rows of a log, the attempts at a run that wrote them, and which of their steps count.

A run that is resumed logs steps again that an earlier attempt has logged. What that attempt did after the checkpoint is
lost, and so are all of its numbers from there on: also those that the later attempt has not reached, or never reports.

`Tracking` of verl is made to append, each line with the number of its attempt (`verl_ext.bridge.tracking`). Lines
without a number are older, or another writer's: there a step that goes back begins an attempt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Values = Mapping[str, Any]
VALIDATION = "val-"
"""What the names of verl's validation metrics begin with."""


class Row(NamedTuple):
    """A step, its metrics, and the attempt that the line names; None if it names none."""

    step: int
    data: Values
    attempt: int | None = None


@dataclass
class Attempt:
    """The rows of one attempt.

    Attributes:
        name: what it is called in a note.
        steps: step -> metrics; of several rows of a step all, the later one's values counting.
    """

    name: str
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Counter:
    """Numbers the attempts of rows that arrive one by one.

    Attributes:
        attempt: the highest so far; 0 before the first row.
    """

    attempt: int = 0
    _step: int = 0

    def of(self, row: Row) -> int:
        """The attempt that a row belongs to: the one it names, else a new one wherever the step goes back."""
        begins = self.attempt == 0 or row.step < self._step
        number = self.attempt + begins if row.attempt is None else row.attempt
        self.attempt, self._step = max(self.attempt, number), row.step
        return number


def step_number(value: Any) -> int | None:
    """A step as writers may give it, ``5`` or ``5.0``; None of anything else.

    Example:
        >>> [step_number(value) for value in (5, 5.0, 5.5, True, "5", float("nan"))]
        [5, 5, None, None, None, None]
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) else int(value) if value.is_integer() else None


def row_of(line: bytes) -> Row | None:
    """A line of verl's file logger; None of any other."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    if not isinstance(raw, dict) or not isinstance(data := raw.get("data"), dict):
        return None
    step = step_number(raw.get("step"))
    return None if step is None else Row(step, data, step_number(raw.get("attempt")))


def last(file: Path) -> int:
    """The number of the last attempt in a log of verl's file logger; 0 where there is no log, or none with a step."""
    counter = Counter()
    if file.is_file():
        with file.open("rb") as lines:
            for row in filter(None, map(row_of, lines)):
                counter.of(row)
    return counter.attempt


def split(rows: Iterable[Row], where: str = "") -> list[Attempt]:
    """The attempts that wrote these rows, in their order.

    Args:
        rows: as they were logged.
        where: name of their file.
    """
    found: dict[int, Attempt] = {}
    counter = Counter()
    for row in rows:
        number = counter.of(row)
        name = f"attempt {number}{f' of {where}' if where else ''}"
        found.setdefault(number, Attempt(name)).steps.setdefault(row.step, {}).update(row.data)
    return [found[number] for number in sorted(found)]


def first_trained(step: int, data: Values) -> int:
    """The first step that an attempt trains, by what it logs first: maybe the validation of what it resumes from.

    Example:
        >>> first_trained(5, {"actor/entropy": 0.5}), first_trained(5, {"val-core/sums/acc/mean@1": 0.5})
        (5, 6)
    """
    return step + (bool(data) and all(name.startswith(VALIDATION) for name in data))


def current(attempts: Sequence[Attempt]) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """The steps that count, in order, and a note for each attempt that took steps back.

    From the first training step of an attempt on, every step of the attempts before it is void as a whole. verl also
    validates the checkpoint that it resumes from: of that step the earlier numbers of the training stay.

    Args:
        attempts: in the order in which they were made.

    Example:
        >>> first, second = Attempt("attempt 1", {4: {"a": 1}, 5: {"a": 2}}), Attempt("attempt 2", {5: {"b": 3}})
        >>> current([first, second])
        ({4: {'a': 1}, 5: {'b': 3}}, ['attempt 2 began at step 5: step 5 of the attempt before it is void'])
    """
    kept: dict[int, dict[str, Any]] = {}
    notes = []
    for attempt in attempts:
        begun = min(attempt.steps)
        first = first_trained(begun, attempt.steps[begun])
        void = sorted(step for step in kept if step >= first)
        for step in void:
            del kept[step]
        if void:
            notes.append(f"{attempt.name} began at step {first}: {_named(void)} void")
        resumed = dict(_trained(kept.pop(begun, {})))
        kept |= {**attempt.steps, begun: {**resumed, **attempt.steps[begun]}}
    return dict(sorted(kept.items())), notes


def _trained(data: Values) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in data.items() if not name.startswith(VALIDATION))


def _named(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return f"step {steps[0]} of the attempt before it is"
    return f"{len(steps)} steps, {steps[0]} to {steps[-1]}, of the attempts before it are"

"""Read the JSON lines that verl's ``file`` logger writes, while they are being written or afterwards.

One line a step: ``{"step": 3, "attempt": 1, "data": {"critic/rewards/mean": 0.5, ...}}``. Step 0 is the validation
before training. Of several attempts at a run `verl_ext.run_report.attempts` says which steps count. Names differ a
little between verl's trainers, so each quantity has a list of names to look under.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from verl_ext.run_report import attempts
from verl_ext.run_report.attempts import Row, Values, row_of

QUANTITIES: dict[str, tuple[str, ...]] = {
    "reward": ("critic/rewards/mean", "critic/score/mean"),
    "entropy": ("actor/entropy", "actor/entropy_loss"),
    "clip fraction": ("actor/pg_clipfrac",),
    "response length": ("response_length/mean", "response_length_non_aborted/mean"),
    "seconds a step": ("timing_s/step",),
}
"""What the demo shows, and the metric names each may have, best first."""

PHASES: dict[str, str] = {
    "gen": "rollout",
    "reward": "reward",
    "old_log_prob": "old log-probs",
    "ref": "reference log-probs",
    "values": "values",
    "adv": "advantages",
    "update_critic": "critic update",
    "update_actor": "actor update",
    "update_weights": "weight sync",
    "save_checkpoint": "checkpoint",
}
"""Timers of verl that lie inside ``timing_s/step`` and do not overlap, with the words used for them."""

REST = "the rest"
_ACCURACY = re.compile(r"^val-core/(?P<source>.+)/(?P<kind>acc|reward)/mean@\d+$")
_GROUP = re.compile(r"^actor/espo/group(\d+)/")

Series = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Record:
    """A step and its finite metrics."""

    step: int
    values: dict[str, float]

    @classmethod
    def of(cls, step: int, data: Values) -> Record:
        """What is a finite number among the metrics of a step."""
        return cls(
            step, {name: float(v) for name, v in data.items() if isinstance(v, int | float) and math.isfinite(v)}
        )

    def get(self, quantity: str) -> float | None:
        """The value of one of `QUANTITIES` (or of a metric's full name); None where this step has none."""
        names = QUANTITIES.get(quantity, (quantity,))
        return next((self.values[name] for name in names if name in self.values), None)

    def accuracy(self) -> float | None:
        """Validation accuracy at this step, averaged over data sources; None where nothing was validated."""
        found = [value for name, value in self.values.items() if _ACCURACY.match(name)]
        return sum(found) / len(found) if found else None


@dataclass
class MetricsTail:
    """Incremental reader of a metrics file that another process appends to.

    `poll` returns the records completed since the last call. A last line without its newline stays unread
    until it is whole; a whole line that is not a record is counted in `broken` and passed over.

    Attributes:
        path: the file.
        broken: lines that were passed over.
        rows: all that was read so far.
    """

    path: Path
    broken: int = 0
    rows: list[Row] = field(default_factory=list, repr=False)
    _offset: int = field(default=0, repr=False)

    def poll(self) -> list[Record]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            chunk = file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.splitlines()
        fresh = [row for row in map(row_of, lines) if row is not None]
        self.broken += len(lines) - len(fresh)
        self.rows += fresh
        return [Record.of(row.step, row.data) for row in fresh]


@dataclass
class History:
    """All records of a run, with the questions the report asks of them.

    Attributes:
        records: one a step, in order.
        notes: which steps of earlier attempts do not count.
    """

    records: list[Record]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> History:
        """What counts in a file, a last line without its newline apart."""
        tail = MetricsTail(path)
        tail.poll()
        return cls.of(tail.rows)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> History:
        """What counts of the rows of a file, in the order in which they were written."""
        steps, notes = attempts.current(attempts.split(rows))
        return cls([Record.of(step, data) for step, data in steps.items()], tuple(notes))

    def steps(self) -> list[Record]:
        """The training steps, without the validation before training."""
        return [record for record in self.records if record.step > 0]

    def series(self, quantity: str) -> Series:
        return _pairs((record.step, record.get(quantity)) for record in self.steps())

    def accuracy(self) -> Series:
        return _pairs((record.step, record.accuracy()) for record in self.records)

    def groups(self) -> list[int]:
        """Numbers of the entropy groups that the loss reported, lowest entropy first."""
        names = {name for record in self.steps() for name in record.values}
        return sorted({int(match[1]) for name in names if (match := _GROUP.match(name))})

    def group_series(self, group: int, name: str) -> Series:
        return self.series(f"actor/espo/group{group}/{name}")

    def phases(self) -> dict[str, Series]:
        """Seconds a step by phase, in verl's order, closed by what no timer of verl covers."""
        found = {label: self.series(f"timing_s/{timer}") for timer, label in PHASES.items()}
        found = {label: series for label, series in found.items() if series[0]}
        steps, totals = self.series("seconds a step")
        if not steps or not found:
            return found
        covered = dict.fromkeys(steps, 0.0)
        for at, seconds in found.values():
            for step, value in zip(at, seconds, strict=True):
                covered[step] = covered.get(step, 0.0) + value
        rest = [max(0.0, total - covered[step]) for step, total in zip(steps, totals, strict=True)]
        return {**found, REST: (steps, rest)}

    def missing(self) -> list[str]:
        """Quantities that no step reported, in words that name where they were looked for."""
        absent = {words: names for words, names in QUANTITIES.items() if not self.series(words)[0]}
        faults = [f"{words} (looked for {', '.join(names)})" for words, names in absent.items()]
        if not self.accuracy()[0]:
            faults.append("validation accuracy (looked for val-core/<data source>/acc or reward/mean@n)")
        return faults


def _pairs(found: Iterable[tuple[int, float | None]]) -> Series:
    kept = [(step, value) for step, value in found if value is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def mean(values: list[float]) -> float | None:
    """The mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a share of `count` trials; 95% by default.

    centre = (p + z^2/2n) / (1 + z^2/n), half-width = z * sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).
    """
    if count < 1:
        raise ValueError(f"an interval needs at least one trial, got {count}")
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)

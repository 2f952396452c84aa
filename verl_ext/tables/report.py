"""Published against obtained: the numbers of a table's report.

Nothing that was not obtained is shown: a cell without a result stays blank, whatever was published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.recipe_files.schema import Row, Table
from verl_ext.tables.matching import numbers, with_further

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Row reference -> results of its seeds, as result.json has them."""

ABOVE, BELOW, WITHIN = "above", "below", "within"


@dataclass(frozen=True)
class Obtained:
    """What was obtained for a cell, per cent: the mean over seeds, its interval, and each seed's value."""

    value: float
    low: float
    high: float
    seeds: Mapping[int, float]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        column: its name.
        published: the paper's number; None where it prints none.
        obtained: None where nothing was obtained.
    """

    column: str
    published: float | None
    obtained: Obtained | None

    @property
    def difference(self) -> float | None:
        """Obtained minus published, in points."""
        if self.obtained is None or self.published is None:
            return None
        return self.obtained.value - self.published

    @property
    def verdict(self) -> str:
        """Where the obtained number lies, in words: a published number outside the interval makes the difference."""
        if self.obtained is None or self.published is None:
            return ""
        if self.published < self.obtained.low:
            return ABOVE
        return BELOW if self.published > self.obtained.high else WITHIN


@dataclass(frozen=True)
class Line:
    """A row of a report: the row, its cells, the runs behind them, and what to know about them."""

    row: Row
    cells: tuple[Cell, ...]
    runs: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def obtained(self) -> bool:
        return any(cell.obtained for cell in self.cells)


def collect(table: Table, out: Path) -> dict[str, list[dict[str, Any]]]:
    """The results that lie in the work folders of a table's rows, and of the rows they are the same as.

    Columns of this table that a run did not report are computed from its scores, where it has them.
    """
    from verl_ext.tables.work import Work

    references = {row.same_as or row.reference for row in table.rows}
    found = {}
    for reference in sorted(references):
        folders = sorted((out / reference).glob("seed*"), key=lambda folder: int(folder.name.removeprefix("seed")))
        works = [Work(folder) for folder in folders]
        results = [
            with_further(table, result, work.evaluation) for work in works if (result := work.result()) is not None
        ]
        if results:
            found[reference] = results
    return found


def lines(table: Table, results: Results) -> list[Line]:
    """The report's rows, in the table's order."""
    measured = {row.name: _measured(table, row, results) for row in table.rows if row.derived is None}
    found = []
    for row in table.rows:
        if row.derived is None:
            cells = measured[row.name]
        else:
            sources = [measured[name] for name in row.derived.rows]
            cells = {
                column.name: _derived(row, [source.get(column.name) for source in sources]) for column in table.columns
            }
        runs = tuple(results.get(row.same_as or row.reference, ())) if row.derived is None else ()
        shown = tuple(Cell(column.name, row.published[column.name], cells.get(column.name)) for column in table.columns)
        found.append(Line(row, shown, runs, _notes(table, row, runs, shown)))
    return found


def _measured(table: Table, row: Row, results: Results) -> dict[str, Obtained | None]:
    """Column -> what the runs of this row, or of the row it is the same as, obtained."""
    runs = results.get(row.same_as or row.reference, ())
    found = [(run["seed"], numbers(table, run)) for run in runs]
    return {column.name: _over_seeds([(seed, own.get(column.name)) for seed, own in found]) for column in table.columns}


def weighted(table: Table) -> list[str]:
    """A sentence for each column that is a weighted mean."""
    return [
        f"{column.name} is a weighted mean, of "
        + ", ".join(f"{name} ({weight:g})" for name, weight in zip(column.mean_of, column.weights, strict=True))
        for column in table.columns
        if column.weights
    ]


def _over_seeds(values: Sequence[tuple[int, Mapping[str, float] | None]]) -> Obtained | None:
    own = [(seed, value) for seed, value in values if value is not None]
    if not own:
        return None
    # All seeds answer the same problems: averaging them does not narrow what the choice of problems leaves open.
    value, low, high = (_mean([found[key] for _, found in own]) for key in ("value", "low", "high"))
    return Obtained(value, low, high, {seed: found["value"] for seed, found in own})


def _derived(row: Row, sources: Sequence[Obtained | None]) -> Obtained | None:
    """Computed from obtained values only, and only when all of them are there.

    The interval adds half-widths in quadrature, as if the rows were evaluated on problems of their own; they share
    them, so that the interval of a difference is rather too wide.
    """
    known = [source for source in sources if source is not None]
    if row.derived is None or len(known) < len(sources):
        return None
    value = row.derived([source.value for source in known])
    scale = 1.0 if row.derived.operation == "difference" else 1 / len(known)
    half = scale * math.sqrt(sum(((source.high - source.low) / 2) ** 2 for source in known))
    return Obtained(value, value - half, value + half, {})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _notes(table: Table, row: Row, runs: Sequence[Mapping[str, Any]], cells: Sequence[Cell]) -> tuple[str, ...]:
    found = list(row.notes)
    if row.same_as:
        found.append(f"the run of {row.same_as}")
        absent = [cell.column for cell in cells if cell.obtained is None]
        if runs and absent:
            found.append(f"{row.same_as} has no scores for {', '.join(absent)}")
    if row.derived:
        found.append(f"{row.derived.operation} of {', '.join(row.derived.rows)}, from obtained numbers only")
    missing = sorted(set(row.seeds) - {run["seed"] for run in runs})
    if runs and row.same_as is None and missing:
        found.append(f"seeds without a result: {', '.join(map(str, missing))}")
    for run in runs:
        if run["overrides"]:
            found.append(f"seed {run['seed']} was run with {' '.join(run['overrides'])}")
        if row.same_as is None and run["arguments"] != row.hydra_overrides():
            found.append(f"seed {run['seed']} was run with settings that the recipe no longer has")
        found += [f"seed {run['seed']}: {note}" for note in run["notes"]]
    return tuple(found)

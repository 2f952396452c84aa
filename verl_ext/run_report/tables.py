"""The report's tables: last values, hyper-parameters, means, guards, phases, and what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from verl_ext.run_report.catalogue import of_panel
from verl_ext.run_report.history import History, mean
from verl_ext.run_report.methods import Method
from verl_ext.run_report.panels import VALIDATION, quantity
from verl_ext.run_report.settings import settings

COLUMNS: tuple[tuple[str, str, float], ...] = (
    ("reward", "reward", 1),
    ("validation, %", VALIDATION, 100),
    ("entropy, nats", "entropy", 1),
    ("clipped, %", "clip fraction", 100),
    ("upper, %", "actor/pg_clipfrac_high", 100),
    ("lower, %", "actor/pg_clipfrac_low", 100),
    ("length", "response length", 1),
    ("gradient norm", "actor/grad_norm", 1),
    ("gap to rollout, nats", "training/rollout_log_probs_diff_max", 1),
    ("seconds a step", "seconds a step", 1),
)
"""Heading, quantity, factor."""
LAST, HYPER = "Last values", "Hyper-parameters"
SUMMARY = (LAST, HYPER)
"""Tables that stand above the curves."""


class Table(NamedTuple):
    """A heading, the names of the columns, and rows of cells that are ready to be shown."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(methods: Sequence[Method]) -> list[Table]:
    """All tables of the page; those in which no method has a number are left out."""
    found = [
        _numbers(LAST, methods, lambda values: values[-1]),
        _settings(methods),
        _numbers("Means over the training steps", methods, lambda values: sum(values) / len(values), [VALIDATION]),
        _guards(methods),
        _phases(methods),
    ]
    return [*(table for table in found if table.rows), _sources(methods)]


def cell(values: Sequence[float], scale: float = 1) -> str:
    """One number for each seed: their mean, and where there are several their range.

    Example:
        >>> cell([0.5, 0.25], 100), cell([3.0]), cell([])
        ('37.5 (25 to 50)', '3', '')
    """
    if not values:
        return ""
    text = number_text(scale * sum(values) / len(values))
    if len(values) == 1:
        return text
    return f"{text} ({number_text(scale * min(values))} to {number_text(scale * max(values))})"


def number_text(value: float) -> str:
    """Three digits, and whole numbers from a thousand on."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _numbers(
    heading: str, methods: Sequence[Method], pick: Callable[[list[float]], float], without: Sequence[str] = ()
) -> Table:
    grid = {
        title: [cell(method.figures(quantity(name), pick), scale) for method in methods]
        for title, name, scale in COLUMNS
        if name not in without
    }
    shown = {title: cells for title, cells in grid.items() if any(cells)}
    rows = [
        (method.name, _steps(method), *(cells[number] for cells in shown.values()))
        for number, method in enumerate(methods)
    ]
    return Table(heading, ("", "steps", *shown), rows if shown else [])


def _steps(method: Method) -> str:
    counts = sorted({len(history.steps()) for history in method.histories})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _settings(methods: Sequence[Method]) -> Table:
    """What is known of the runs' configurations; several values where the runs of a method differ."""
    known = {method.name: [settings(run.files) for run in method.runs] for method in methods}
    names = dict.fromkeys(name for found in known.values() for one in found for name in one)
    rows = [
        (name, *(", ".join(dict.fromkeys(one[name] for one in found if name in one)) for found in known.values()))
        for name in names
    ]
    return Table(HYPER, ("", *known), rows)


def _guards(methods: Sequence[Method]) -> Table:
    """The largest value of each count over the steps, where any run has the count at all."""
    names = [metric.name for metric in of_panel("guards")]
    grid = {name: [cell(method.figures(quantity(name), max)) for method in methods] for name in names}
    rows = [(name, *cells) for name, cells in grid.items() if any(cells)]
    return Table("Guards: the largest value of any step", ("", *(method.name for method in methods)), rows)


def _phases(methods: Sequence[Method]) -> Table:
    found = {method.name: method.mean.phases() for method in methods}
    labels = list(dict.fromkeys(label for phases in found.values() for label in phases))
    rows = [
        (label, *(cell([mean(phases[label][1]) or 0.0]) if label in phases else "" for phases in found.values()))
        for label in labels
    ]
    return Table("Seconds a step by phase, mean", ("phase", *found), rows)


def _sources(methods: Sequence[Method]) -> Table:
    rows = [
        (method.name, run.kind, ", ".join(file.name for file in run.files), *_range(run.history))
        for method in methods
        for run in method.runs
    ]
    return Table("What was read", ("", "written by", "files", "steps", "records"), rows)


def _range(history: History) -> tuple[str, str]:
    return f"{history.records[0].step} to {history.records[-1].step}", str(len(history.records))

"""`verl-ext tables plan` and `list`: what a table asks for, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from verl_ext.recipe_files.recipe import RecipeError, all_tables, find_row, find_table
from verl_ext.recipe_files.schema import RUN_KINDS, Row, Table
from verl_ext.tables.estimate import Estimate, estimate
from verl_ext.tables.job import Job, Places
from verl_ext.tables.work import STAGES
from verl_ext.train.plan import GPU


@dataclass(frozen=True)
class Planned:
    """A row in a plan.

    Attributes:
        row: the row.
        job: of its first seed; None for a row without a run of its own.
        estimate: of one seed; None as for `job`.
        state: of each seed: ``done``, the stage it stands at, or nothing.
        fault: why it cannot be composed.
    """

    row: Row
    job: Job | None
    estimate: Estimate | None
    state: tuple[str, ...]
    fault: str | None


def select(references: Sequence[str]) -> list[tuple[Table, list[Row]]]:
    """Tables and their rows by reference: a paper, a table, or a row; everything without any.

    Raises:
        RecipeError: for every reference that names nothing, with what there is.
    """
    chosen: dict[str, tuple[Table, list[Row]]] = {}
    faults = []
    for reference in references or [table.reference for table in all_tables()]:
        try:
            named = _named(reference)
        except RecipeError as error:
            faults += error.faults
            continue
        for table, row in named:
            rows = chosen.setdefault(table.reference, (table, []))[1]
            rows += [row] if row not in rows else []
    if faults:
        raise RecipeError(faults)
    return list(chosen.values())


def _named(reference: str) -> list[tuple[Table, Row]]:
    depth = reference.count("/")
    if depth == 2:
        return [(find_table(reference.rpartition("/")[0]), find_row(reference))]
    if depth == 1:
        table = find_table(reference)
        return [(table, row) for row in table.rows]
    tables = all_tables()
    found = [(table, row) for table in tables if table.paper == reference for row in table.rows]
    if not found:
        papers = ", ".join(dict.fromkeys(table.paper for table in tables))
        raise RecipeError([f"there is no paper '{reference}'; there are {papers}"])
    return found


def jobs(
    chosen: Iterable[tuple[Table, Sequence[Row]]],
    places: Places,
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    tensor_parallel: int = 1,
) -> list[Job]:
    """A job for each row and seed; rows that are the same as others, or derived, have none."""
    return [
        Job(table, row, seed, places, tuple(overrides), tensor_parallel)
        for table, rows in chosen
        for row in rows
        if row.kind in RUN_KINDS
        for seed in (seeds or row.seeds)
    ]


def plan(table: Table, rows: Sequence[Row], places: Places) -> list[Planned]:
    """Compose every row and estimate it; a row that cannot be composed is planned with its fault."""
    found = []
    for row in rows:
        own = jobs([(table, [row])], places)
        sized, fault = None, None
        if own:
            try:
                sized = estimate(own[0])
            except ValueError as error:
                fault = str(error)
        found.append(Planned(row, own[0] if own else None, sized, tuple(map(_state, own)), fault))
    return found


def _state(job: Job) -> str:
    stages = job.work.stages()
    if job.work.result() is not None:
        return "done"
    begun = [stage for stage in STAGES if stage in stages]
    return f"at {begun[-1]}" if begun else ""


def show(table: Table, found: Sequence[Planned], console: Console) -> None:
    """Print a table's plan."""
    shown = RichTable(
        title=f"{table.reference}: {table.title}", title_justify="left", title_style="bold",
        box=None, padding=(0, 2, 0, 0), header_style="bold",
    )  # fmt: skip
    for heading in ("row", "kind", "runs with", "seeds", "steps", "GPU-hours a seed\n(estimate)", "state"):
        shown.add_column(heading, justify="right" if heading[:3] in ("ste", "GPU") else "left", overflow="fold")
    for planned in found:
        row, sized = planned.row, planned.estimate
        state = " ".join(state for state in planned.state if state)
        shown.add_row(
            row.name, row.kind, what(row), ", ".join(map(str, row.seeds)),
            "" if sized is None else "?" if sized.steps is None else str(sized.steps),
            "" if sized is None else hours_text(sized.total),
            "[bold red]faulty[/bold red]" if planned.fault else state,
        )  # fmt: skip
    console.print(shown)
    for planned in found:
        if planned.fault:
            console.print(f"{planned.row.reference}: {planned.fault}", style="red", markup=False, soft_wrap=True)
    totals = [p.estimate.total * len(p.row.seeds) for p in found if p.estimate and p.estimate.total is not None]
    console.print(
        f"together about {hours_text(sum(totals))} GPU-hours of an {GPU}, by estimate; what trains on the CPU, of this "
        f"machine",
        highlight=False,
        soft_wrap=True,
    )


def what(row: Row) -> str:
    """What a row runs with, in a few words."""
    if row.endpoint:
        return f"endpoint {row.endpoint.model}"
    if row.same_as:
        return f"the run of {row.same_as}"
    if row.derived:
        return f"{row.derived.operation} of {', '.join(row.derived.rows)}"
    return " ".join(f"{group}={option}" for group, option in row.choices.items())


def hours_text(value: float | None) -> str:
    """Two digits, as an estimate deserves.

    Example:
        >>> [hours_text(value) for value in (None, 0.0, 0.004, 0.34, 7.26, 1234.0)]
        ['?', '0', '< 0.01', '0.34', '7.3', '1200']
    """
    if value is None:
        return "?"
    if value == 0:
        return "0"
    return "< 0.01" if value < 0.01 else f"{value:.2g}" if value < 100 else f"{round(value, -2):.0f}"


def as_json(table: Table, found: Sequence[Planned]) -> dict[str, Any]:
    """The plan as plain data; hours in GPU-hours of one seed."""
    return {
        "table": table.reference,
        "title": table.title,
        "rows": [
            {
                "row": one.row.reference,
                "kind": one.row.kind,
                "runs_with": what(one.row),
                "seeds": list(one.row.seeds),
                "steps": one.estimate.steps if one.estimate else None,
                "gpu_hours_training": one.estimate.training if one.estimate else None,
                "gpu_hours_estimate": one.estimate.total if one.estimate else None,
                "state": list(one.state),
                "fault": one.fault,
                "config": json.loads(json.dumps(one.row.hydra_overrides())),
            }
            for one in found
        ],
    }

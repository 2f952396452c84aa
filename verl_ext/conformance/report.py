"""The table of the battery, for terminals and as markdown, and what is said below it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_ext.conformance.battery import Cell, Row
from verl_ext.conformance.properties import GRADES, OPTION, STYLE, TRAINING
from verl_ext.conformance.record import command
from verl_ext.conformance.registry import KINDS

# The word of a cell, by its grade if it fails and by its status otherwise, and how it is shown.
WORDS = {"ok": "ok", "n/a": "n/a", TRAINING: "FAIL", OPTION: "option", STYLE: "style"}
STYLES = {"ok": "green", "n/a": "dim", TRAINING: "bold red", OPTION: "yellow", STYLE: "cyan"}

MEANINGS = {
    TRAINING: "breaks training: a usual run learns something else, or ends",
    OPTION: "wrong under an option: another aggregation, hyper-parameter, precision or correction",
    STYLE: "style: costs time, or breaks with inputs that verl does not make",
}

Paths = Mapping[tuple[str, str, str], Path]


def print_report(console: Console, tables: Mapping[str, Sequence[Row]], keys: Sequence[str], paths: Paths) -> None:
    """Tables, then the failing cells, then what was left out and why."""
    for kind, rows in tables.items():
        columns = shown_columns(kind, keys)
        console.print(KINDS[kind].title, style="bold underline")
        for block in _blocks(console, kind, rows, columns):
            console.print(_table(kind, rows, block))
        grades = {cell.grade for row in rows for cell in row.failures.values()}
        for grade in GRADES:
            if grade in grades:
                console.print(f"  {WORDS[grade]}: {MEANINGS[grade]}", style=STYLES[grade], highlight=False)
        _print_failures(console, rows, paths)
        notes = list(exceptions(rows))
        if notes:
            console.print("* declared exceptions", style="bold")
        for note in notes:
            console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
        console.print()


def shown_columns(kind: str, keys: Sequence[str]) -> list[str]:
    """The properties of a kind, those asked for if any were."""
    return [key for key in KINDS[kind].columns if not keys or key in keys]


def _blocks(console: Console, kind: str, rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Sequence[str]]:
    """The columns in as many blocks as the width of the console needs."""
    block: list[str] = []
    for key in columns:
        table = _table(kind, rows, [*block, key])
        if block and console.measure(table, options=console.options.update(width=1000)).maximum > console.width:
            yield block
            block = []
        block.append(key)
    yield block


def _table(kind: str, rows: Sequence[Row], columns: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("")
    for key in columns:
        table.add_column(KINDS[kind].columns[key].heading.replace(" ", "\n"), justify="center")
    origin = None
    for row in rows:
        if row.subject.origin != origin:
            origin = row.subject.origin
            table.add_row(Text(origin, style="bold"))
        cells = [row.cells.get(key) for key in columns]
        texts = [
            Text(mark(cell), style=STYLES[cell.grade or cell.status]) if cell else Text("-", style="dim")
            for cell in cells
        ]
        table.add_row(f"  {row.subject.name}", *texts)
    return table


def mark(cell: Cell) -> str:
    """The text of a cell; a star where something was left out."""
    return WORDS[cell.grade or cell.status] + "*" * (bool(cell.left_out) and cell.status != "n/a")


def _print_failures(console: Console, rows: Sequence[Row], paths: Paths) -> None:
    for row in rows:
        if row.subject.skip:
            console.print(f"{row.subject.name}: not tested, {row.subject.skip}", markup=False, highlight=False)
        for key, cell in row.failures.items():
            head = f"\nFAIL {row.subject.name}, {key}: {cell.grade}"
            console.print(head, style=STYLES[cell.grade], highlight=False)
            path = paths.get((row.subject.kind, row.subject.name, key))
            lines = [cell.message, *(f"  {line}" for line in cell.given.lines(row.subject.reads))]
            lines += [f"replay: {command(row, key, path)}"] if path else []
            for line in lines:
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def exceptions(rows: Sequence[Row]) -> Iterator[str]:
    """One line for each declared exception: method, properties, what is left out, why."""
    for row in rows:
        columns: dict[tuple[str, str], list[str]] = {}
        for key, cell in row.cells.items():
            for condition, reason in cell.left_out.items():
                columns.setdefault((condition, reason), []).append(key)
        for (condition, reason), keys in columns.items():
            where = f" ({condition})" if condition else ""
            yield f"{row.subject.name}, {', '.join(keys)}{where}: {reason}"


def markdown(tables: Mapping[str, Sequence[Row]], keys: Sequence[str]) -> str:
    """Tables, exceptions, and failures with their cases, as markdown."""
    return "\n".join(line for kind, rows in tables.items() for line in _markdown(kind, rows, keys))


def _markdown(kind: str, rows: Sequence[Row], keys: Sequence[str]) -> Iterator[str]:
    columns = shown_columns(kind, keys)
    yield from (f"### {KINDS[kind].title}", "")
    yield "| | " + " | ".join(f"`{key}`" for key in columns) + " |"
    yield "|---|" + ":-:|" * len(columns)
    for row in rows:
        cells = (row.cells.get(key) for key in columns)
        texts = ("-" if cell is None else mark(cell).replace("FAIL", "**FAIL**").replace("*", r"\*") for cell in cells)
        texts = (text.replace(r"\*\*FAIL\*\*", "**FAIL**") for text in texts)
        yield f"| `{row.subject.name}` ({row.subject.origin}) | " + " | ".join(texts) + " |"
    skipped = [f"- `{row.subject.name}`: {row.subject.skip}" for row in rows if row.subject.skip]
    notes = [f"- {note}" for note in exceptions(rows)]
    for title, lines in (("Not tested", skipped), (r"\* Declared exceptions", notes)):
        if lines:
            yield from ("", f"{title}:", "", *lines)
    for row in rows:
        if row.failures:
            yield from ("", f"`{row.subject.name}` ({row.subject.origin}):", "")
        for key, cell in row.failures.items():
            case = "; ".join(cell.given.lines(row.subject.reads))
            yield f"- `{key}` ({cell.grade}): {cell.message.rstrip('.')}. Case: `{re.sub(' +', ' ', case)}`"
    yield ""

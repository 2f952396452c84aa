"""The end of a run on the terminal: why it failed, or its tables and where its report lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as RichTable

from verl_ext.live.logs import failure

if TYPE_CHECKING:
    from verl_ext.run_report.history import History
    from verl_ext.run_report.tables import Table

PAGE = "report.html"
INTERRUPTED = 130


def explain(status: int, log: Path, console: Console) -> None:
    """Say what a failed trainer's log says, and where it is; nothing of one that was interrupted."""
    if status == INTERRUPTED:
        return
    console.print(f"The trainer failed (exit status {status}).", style="bold red")
    for line in failure(log):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"The whole log: {log}", markup=False, soft_wrap=True)


def show_tables(tables: Iterable[Table], console: Console) -> None:
    """Print tables whose first column names what the others count."""
    for table in tables:
        shown = RichTable(title=table.heading or None, title_justify="left", title_style="bold")
        for index, name in enumerate(table.columns):
            shown.add_column(name, justify="left" if index == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def figures(history: History) -> Table:
    """First and last value and mean of what the report compares, where the run has it."""
    from verl_ext.run_report.history import mean
    from verl_ext.run_report.panels import quantity
    from verl_ext.run_report.tables import COLUMNS, Table, number_text

    found = {title: [scale * value for value in quantity(name)(history)[1]] for title, name, scale in COLUMNS}
    rows = [
        (title, *(number_text(value) for value in (values[0], values[-1], mean(values) or 0.0)))
        for title, values in found.items()
        if values
    ]
    return Table(f"{len(history.steps())} steps", ("", "first", "last", "mean"), rows)


def report(logs: Sequence[Path], name: str, console: Console) -> None:
    """Print the table of a run, and write its page beside its logs.

    Args:
        logs: of its attempts, in order.
        name: of the run.
        console: for the table.
    """
    from verl_ext.run_report import page
    from verl_ext.run_report.methods import Method
    from verl_ext.run_report.sources import of_logs

    (logged,) = of_logs(tuple(logs))
    if not logged.history.records:
        console.print("No step was reported; on a running Ray cluster this needs console in trainer.logger.")
        return
    show_tables([figures(logged.history)], console)
    for note in logged.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    target = logs[-1].with_name(PAGE)
    target.write_text(page.render([Method(name, (logged,))], f"Run: {name}", 0.7), encoding="utf-8")
    console.print(f"report: {target}", markup=False, soft_wrap=True)

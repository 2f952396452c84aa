"""An evaluation's table for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from verl_ext.evaluation.metrics import Metric
from verl_ext.evaluation.summary import Summary


def show(summaries: Sequence[Summary], console: Console) -> None:
    """A line for each metric of each benchmark, then what became of the responses, then notes."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("benchmark")
    table.add_column("metric")
    table.add_column("per cent", justify="right")
    table.add_column(f"{summaries[0].interval['level']:.0%} interval", justify="right")
    table.add_column("problems", justify="right")
    table.add_column("verifier", overflow="fold")
    for summary in summaries:
        for number, (name, metric) in enumerate(summary.metrics.items()):
            first = (summary.benchmark, summary.verifier) if number == 0 else ("", "")
            table.add_row(first[0], name, f"{100 * metric.value:.2f}", interval(metric), str(metric.n), first[1])
    console.print(table)
    for summary in summaries:
        for line in (responses(summary), *(f"note  {note}" for note in summary.notes)):
            console.print(f"{summary.benchmark}: {line}", markup=False, highlight=False, soft_wrap=True)


def interval(metric: Metric) -> str:
    """``[23.10, 40.02]``, in per cent."""
    return f"[{100 * metric.low:.2f}, {100 * metric.high:.2f}]"


def responses(summary: Summary) -> str:
    """How many responses there are, how they were judged, how many were cut off."""
    total = summary.problems * summary.samples
    judged = ", ".join(f"{count} {name}" for name, count in summary.outcomes.items() if count)
    length = "" if summary.tokens is None else f", {summary.tokens:.0f} tokens on average"
    return f"{total} responses: {judged}; {summary.truncated} cut off{length}"


def changes(before: Summary, after: Summary) -> str:
    """One line on what another verifier says of the same responses."""
    name = f"avg@{after.samples}"
    old, new = before.metrics[name].value, after.metrics[name].value
    return (
        f"{after.benchmark}: {name} {100 * old:.2f} -> {100 * new:.2f} per cent ({before.verifier} -> {after.verifier})"
    )

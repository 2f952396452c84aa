"""The contamination report, for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_ext.data.contamination import Pair, Report
from verl_ext.data.text import canonical

_WIDTH = 60


def show(report: Report, console: Console, pairs: int = 20) -> None:
    """Print the table, and as many pairs as asked for."""
    console.print(
        f"{report.train}: {report.train_problems:,} problems. Of each benchmark's problems it has so many exactly, "
        f"so many but for case, spacing and punctuation, and of so many others at least {report.threshold:.0%} of "
        f"the {report.ngram}-grams in one problem.",
        highlight=False,
    )
    console.print(_summary(report))
    if pairs and report.pairs:
        console.print(_pairs(report.pairs[:pairs]))
    if len(report.pairs) > pairs:
        console.print(f"{len(report.pairs) - pairs} more pairs", highlight=False)


def _summary(report: Report) -> Table:
    table = Table("benchmark", box=None)
    for heading in ("problems", "exact", "normalised", "overlap", "found", "too short", "mean share"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        counts = (row.problems, row.exact, row.normalised, row.overlap)
        found = f"{row.found / row.problems:.1%}" if row.problems else "-"
        table.add_row(row.benchmark, *map(str, counts), found, str(row.too_short), f"{row.mean_share:.3f}")
    return table


def _pairs(pairs: Sequence[Pair]) -> Table:
    table = Table("benchmark", "row", "train row", "kind", "share", "answers", "problem", "in training", box=None)
    for pair in pairs:
        texts = (Text(_cut(text)) for text in (pair.problem, pair.train_problem))
        answers = "same" if pair.same_answer else "differ"
        rows = (str(pair.index), str(pair.train_index))
        table.add_row(pair.benchmark, *rows, pair.kind, f"{pair.share:.2f}", answers, *texts)
    return table


def _cut(text: str) -> str:
    short = canonical(text)
    return short if len(short) <= _WIDTH else f"{short[: _WIDTH - 1]}…"

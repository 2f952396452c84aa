"""The table of data sets in docs/data.md, made of the sets' files."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import fill

from verl_ext.data import sets
from verl_ext.data.dataset import Dataset

BEGIN, END = "<!-- made by make docs -->", "<!-- end -->"


def table() -> str:
    """The sets of this package, those of other packages left out."""
    from verl_ext.data.registry import datasets

    ours = [one for name, one in datasets().items() if Path(*sets.__path__, f"{name}.py").is_file()]
    head = ["| name | problems | checked against a real file | hub, revision |", "|---|---|---|---|"]
    notes = [
        fill(f"- `{one.name}`, {one.title}. {one.note}", 120, subsequent_indent="  ", break_on_hyphens=False)
        for one in ours
        if one.note
    ]
    return "\n".join([*head, *(_row(one) for one in ours), "", *notes])


def _row(one: Dataset) -> str:
    count = f"{one.drawn:,} of {one.rows:,} rows" if one.drawn else _count(one.problems) or f"{_count(one.rows)} rows"
    more = f", and {one.train_rows:,} to train on" if one.train_rows else ""
    pin = f", {one.hub.revision[:7]}" if one.hub and one.hub.revision else ", not pinned"
    source = f"`{one.hub.repo}`{pin}" if one.hub else "made here"
    return f"| `{one.name}` | {count}{more} | {'yes' if one.known else 'no' if one.hub else ''} | {source} |"


def _count(number: int | None) -> str:
    return f"{number:,}" if number is not None else ""


def renewed(page: str) -> str:
    """The page with the table of today between its marks.

    Raises:
        ValueError: it has no marks.
    """
    whole = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not whole.search(page):
        raise ValueError(f"the page has no place for the table: {BEGIN} and {END}")
    return whole.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", page)

"""A table's report as Markdown and as a page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verl_ext.recipe_files.schema import Table
from verl_ext.tables.report import Line, Obtained, collect, lines, weighted


def page(table: Table, found: Sequence[Line], form: str) -> str:
    """The report as text.

    Args:
        table: the table.
        found: from `lines`.
        form: ``md`` or ``html``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("verl_ext.tables", "."),
        autoescape=form == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "number": number, "signed": signed, "interval": interval, "seeds": seeds_text, "bar": escaped,
    }  # fmt: skip
    environment.filters.update(filters)
    context = {
        "table": table,
        "lines": found,
        "panels": panels(found),
        "done": [line for line in found if line.obtained],
        "weighted": weighted(table),
    }
    return environment.get_template(f"report.{form}.j2").render(context)


def panels(found: Sequence[Line]) -> list[tuple[str | None, list[Line]]]:
    """Neighbouring lines under the same sub-heading."""
    groups: list[tuple[str | None, list[Line]]] = []
    for line in found:
        if not groups or groups[-1][0] != line.row.panel:
            groups.append((line.row.panel, []))
        groups[-1][1].append(line)
    return groups


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def escaped(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}".replace("-", "−")


def interval(found: Obtained | None) -> str:
    return "" if found is None else f"{found.low:.2f} to {found.high:.2f}"


def seeds_text(found: Obtained | None) -> str:
    return "" if found is None else ", ".join(f"{seed}: {value:.2f}" for seed, value in found.seeds.items())


def write(table: Table, out: Path, forms: Sequence[str]) -> list[Path]:
    """Write a table's report into its folder; the paths."""
    found = lines(table, collect(table, out))
    folder = out / table.reference
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for form in forms:
        written.append(folder / f"report.{form}")
        written[-1].write_text(page(table, found, form), encoding="utf-8")
    return written

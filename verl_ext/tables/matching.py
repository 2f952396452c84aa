"""Which numbers of a run are those of a table's column: same metric, same benchmark, responses drawn in the same way.

A run may stand in several tables (rows of kind ``same_as``). What its own table did not ask for is computed from the
run's scores, never taken from what was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from verl_ext.recipe_files.schema import Column, Table
from verl_ext.tables.columns import SCORES, obtained
from verl_ext.tables.evaluating import folder_name

FURTHER = "further"
"""Key of a run under which `with_further` puts what it computed, by the table's names of columns."""


def numbers(table: Table, run: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Column of `table` -> value, low and high of a run, as reported under whatever name, or computed further.

    Args:
        table: the table that is reported.
        run: as result.json has it.
    """
    reported = {
        str(_definition(column, run["definitions"], run["decodings"])): run["columns"][name]
        for name, column in run["definitions"].items()
    }
    columns = {column.name: asdict(column) for column in table.columns}
    decodings = {name: asdict(decoding) for name, decoding in table.decodings.items()}
    wanted = {name: str(_definition(column, columns, decodings)) for name, column in columns.items()}
    found = {name: reported[definition] for name, definition in wanted.items() if definition in reported}
    return {**run.get(FURTHER, {}), **found}


def with_further(table: Table, run: Mapping[str, Any], evaluation: Path) -> dict[str, Any]:
    """The run, with the columns of `table` that it did not report and whose responses it has.

    Args:
        table: the table that is reported.
        run: as result.json has it.
        evaluation: the run's folder of that name.
    """
    reported, folder = numbers(table, run), evaluation / f"step_{run['checkpoint']['step']}"
    measured = {column.name: own for column in table.columns if (own := _recorded(column, table, run, folder))}
    means = [column for column in table.columns if column.mean_of and set(column.mean_of) <= measured.keys()]
    missing = [column for column in (*measured.values(), *means) if column.name not in reported]
    parts = {name for column in missing for name in column.mean_of or (column.name,)}
    computed = obtained([*(measured[name] for name in sorted(parts)), *(c for c in missing if c.mean_of)], folder)
    return {**run, FURTHER: {column.name: computed[column.name] for column in missing}}


def _recorded(column: Column, table: Table, run: Mapping[str, Any], folder: Path) -> Column | None:
    """The column with the run's name of its decoding; None where the run has no scores of such responses."""
    if not column.benchmark:
        return None
    wanted = _drawn(asdict(column), {str(column.decoding): asdict(table.decodings[str(column.decoding)])})
    for own in run["definitions"].values():
        if own["benchmark"] and _drawn(own, run["decodings"]) == wanted:
            found = replace(column, decoding=own["decoding"])
            return found if (folder / folder_name(found) / SCORES).exists() else None
    return None


def _definition(column: Mapping[str, Any], columns: Mapping[str, Any], decodings: Mapping[str, Any]) -> Any:
    if not column["mean_of"]:
        return (column["metric"], *_drawn(column, decodings))
    shares = Column("", mean_of=tuple(column["mean_of"]), weights=tuple(column["weights"])).shares
    parts = [_definition(columns[name], columns, decodings) for name in column["mean_of"]]
    return sorted((str(part), round(share, 9)) for part, share in zip(parts, shares, strict=True))


def _drawn(column: Mapping[str, Any], decodings: Mapping[str, Any]) -> tuple[Any, ...]:
    decoding = decodings[column["decoding"]]
    # As numbers: 1 and 1.0 are the same temperature.
    return (column["benchmark"], *sorted((key, float(value)) for key, value in decoding.items() if key != "name"))

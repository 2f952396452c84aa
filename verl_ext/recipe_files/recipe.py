"""Read the tables of recipes/: one YAML file a table, all faults of a file at once.

Nothing here imports torch or verl, so that listing and planning are quick.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from verl_ext.recipe_files.parse import parse
from verl_ext.recipe_files.reader import RecipeError
from verl_ext.recipe_files.schema import Checkpoint, Column, Decoding, Derived, Endpoint, Row, Table

__all__ = [
    "Checkpoint",
    "Column",
    "Decoding",
    "Derived",
    "Endpoint",
    "RecipeError",
    "Row",
    "Table",
    "all_tables",
    "find_row",
    "find_table",
    "load_table",
    "recipes_dir",
]


def recipes_dir() -> Path:
    """The folder with the papers' tables: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "recipes", package.parent / "recipes"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"verl_ext's recipes/ is neither in {package} nor beside it: reinstall the package")


def load_table(paper: str, table: str) -> Table:
    """One table, checked by itself; rows it names in other tables are checked by `all_tables`.

    Raises:
        RecipeError: if there is no such table, or for the faults of its file.
    """
    return _load(_file(paper, table))


def all_tables() -> list[Table]:
    """Every table, in the order of paper and name, with all references between tables checked.

    Raises:
        RecipeError: for the faults of all files.
    """
    tables, faults = [], []
    for file in _files():
        try:
            tables.append(_load(file))
        except RecipeError as error:
            faults += error.faults
    if not faults:
        faults = [fault for table in tables for fault in reference_faults(table, tables)]
    if faults:
        raise RecipeError(faults)
    return tables


def find_table(reference: str) -> Table:
    """The table called ``<paper>/<table>``.

    Raises:
        RecipeError: if there is none, with those there are.
    """
    paper, _, table = reference.partition("/")
    return load_table(paper, table)


def find_row(reference: str) -> Row:
    """The row called ``<paper>/<table>/<row>``.

    Raises:
        RecipeError: if there is none, with those there are.
    """
    parts = reference.split("/")
    if len(parts) != 3:
        raise RecipeError([f"'{reference}' does not name a row; write <paper>/<table>/<row>"])
    table = load_table(parts[0], parts[1])
    if parts[2] not in table.by_name:
        raise RecipeError([f"{table.reference} has no row '{parts[2]}'; it has {', '.join(table.by_name)}"])
    return table.by_name[parts[2]]


def reference_faults(table: Table, tables: list[Table]) -> list[str]:
    """Rows of `table` that are the same as a row that does not exist, or that has no run of its own."""
    known = {row.reference: row for other in tables for row in other.rows}
    faults = []
    for row in table.rows:
        if row.same_as is None:
            continue
        target = known.get(row.same_as)
        if target is None:
            faults.append(f"{row.reference}: same_as names '{row.same_as}', which no table has")
        elif target.kind in ("same_as", "derived"):
            faults.append(f"{row.reference}: same_as names '{row.same_as}', which has no run of its own; name the run")
    return faults


def _files() -> list[Path]:
    return sorted(recipes_dir().glob("*/tables/*.yaml"))


def _file(paper: str, table: str) -> Path:
    file = recipes_dir() / paper / "tables" / f"{table}.yaml"
    if file not in _files():
        known = ", ".join(f"{found.parts[-3]}/{found.stem}" for found in _files())
        raise RecipeError([f"there is no table '{paper}/{table}'; there are {known or 'none'}"])
    return file


def _load(file: Path) -> Table:
    return _parsed(file, file.stat().st_mtime_ns)


@cache
def _parsed(file: Path, modified: int) -> Table:
    return parse(file.read_text(encoding="utf-8"), file.parts[-3], file.stem)

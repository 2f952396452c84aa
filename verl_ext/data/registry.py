"""All data sets by name: those of ``sets/``, those of other packages, and one of a file of one's own."""

from __future__ import annotations

import importlib
import pkgutil
import runpy
import traceback
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from verl_ext.data.dataset import Dataset, faults

ENTRY_POINTS = "verl_ext.data_sets"


class SpecError(ValueError):
    """A data set of one's own that cannot be used; says why."""


@cache
def datasets() -> dict[str, Dataset]:
    """Name -> data set. A set of another package that cannot be used is in `broken` instead."""
    return _found()[0]


@cache
def broken() -> dict[str, str]:
    """Name of an entry point of the group `ENTRY_POINTS` -> why it is no data set."""
    return _found()[1]


@cache
def _found() -> tuple[dict[str, Dataset], dict[str, str]]:
    from verl_ext.data import sets

    names = sorted(module.name for module in pkgutil.iter_modules(sets.__path__))
    ours = {name: importlib.import_module(f"{sets.__name__}.{name}").SET for name in names}
    others: dict[str, Dataset] = {}
    wrong: dict[str, str] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            others[point.name] = _checked(point.load(), f"entry point {point.value}", {**ours, **others}, point.name)
        except (Exception, SystemExit) as error:
            # Whatever another package raises: it must not end a command that does not ask for its set.
            wrong[point.name] = str(error) if isinstance(error, SpecError) else f"{type(error).__name__}: {error}"
    return {**ours, **others}, wrong


def load(file: Path) -> Dataset:
    """The data set of a Python file that defines ``SET``, as the files of ``verl_ext/data/sets`` do.

    Raises:
        SpecError: with all that is wrong with it.
    """
    try:
        defined = runpy.run_path(str(file))
    except (Exception, SystemExit) as error:
        # The user's own code: the last line of it says where.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"line {lines[-1]}, " if lines else ""
        raise SpecError(f"--spec {file} cannot be read: {where}{type(error).__name__}: {error}") from error
    if "SET" not in defined:
        raise SpecError(f"--spec {file} defines no SET; it has to be a verl_ext.data.dataset.Dataset")
    return _checked(defined["SET"], f"--spec {file}", datasets())


def _checked(found: Any, origin: str, taken: dict[str, Dataset], name: str | None = None) -> Dataset:
    told = faults(found)
    if not told and found.name in taken:
        told = [f"name {found.name!r} is that of another data set"]
    if not told and name not in (None, found.name):
        told = [f"the entry point is called {name}, its data set {found.name}"]
    if told:
        raise SpecError(f"{origin} is no data set:\n" + "\n".join(f"  - {fault}" for fault in told))
    return found


def dataset(name: str) -> Dataset:
    """A data set by name.

    Raises:
        ValueError: there is none of that name; with the nearest one, or all of them.
    """
    if name in broken():
        raise SpecError(f"{name}: {broken()[name]}")
    if name not in datasets():
        from verl_ext.hyper import nearest

        raise ValueError(f"no data set {name!r}{nearest(name, datasets())}")
    return datasets()[name]

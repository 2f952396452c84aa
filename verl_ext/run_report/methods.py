"""What the report compares: runs under names, and runs that differ in their seed taken together under one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from verl_ext.run_report.history import History, Record, Series, mean
from verl_ext.run_report.sources import Logged, SourceError, read

_SEED = re.compile(r"[-_.]?seed[-_]?\d+$", re.IGNORECASE)
_PLAIN = frozenset({"logs", "log", "wandb", "tensorboard", "files"})
"""Folders that say nothing about the run in them."""


class Band(NamedTuple):
    """A quantity over steps: the mean over runs, their lowest and their highest; all alike where there is one run."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Method:
    """Runs that are shown as one: a single one, or the seeds of a method.

    Attributes:
        name: in legend and tables.
        runs: what was read.
    """

    name: str
    runs: tuple[Logged, ...]

    @property
    def histories(self) -> list[History]:
        return [run.history for run in self.runs]

    @cached_property
    def mean(self) -> History:
        """The metrics that all runs have, averaged over them at the steps that all of them have."""
        if len(self.runs) == 1:
            return self.histories[0]
        by_step = [{record.step: record.values for record in history.records} for history in self.histories]
        steps = sorted(set.intersection(*(set(steps) for steps in by_step)))
        return History([Record(step, _averaged([steps[step] for steps in by_step])) for step in steps])

    def band(self, quantity: Callable[[History], Series]) -> Band:
        """A quantity at the steps at which every run reports it.

        Args:
            quantity: History -> (steps, values), for example `History.accuracy`.
        """
        found = [dict(zip(*quantity(history), strict=True)) for history in self.histories]
        steps = sorted(set.intersection(*(set(values) for values in found)))
        columns = [[values[step] for values in found] for step in steps]
        means = [sum(column) / len(column) for column in columns]
        return Band(steps, means, [min(column) for column in columns], [max(column) for column in columns])

    def figures(self, quantity: Callable[[History], Series], pick: Callable[[list[float]], float]) -> list[float]:
        """One number for each run that reports the quantity, for example its last value."""
        return [pick(values) for _, values in map(quantity, self.histories) if values]


def _averaged(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: mean([row[name] for row in rows]) or 0.0 for name in names}


def gather(arguments: Sequence[str], seeds: bool = False) -> list[Method]:
    """Read all runs and give them names.

    Args:
        arguments: ``PATH`` or ``NAME=PATH``; without a name a run is called after the part of its path by which it
            differs from the others.
        seeds: take runs of one name together; names made from paths are then without a trailing ``seed<n>``.

    Raises:
        SourceError: with every fault of every run, one a line.
    """
    faults: list[str] = []
    read_runs: list[tuple[str, Path, Logged]] = []
    for argument in arguments:
        name, path = split(argument)
        try:
            read_runs += [(name, path, logged) for logged in read(path)]
        except SourceError as error:
            faults.append(str(error))
    if not arguments:
        faults.append("no run was named")
    places = [_place(path, seeds) for name, path, _ in read_runs if not name]
    derived = iter(short_names(places))
    named: dict[str, list[Logged]] = {}
    for name, _, logged in read_runs:
        full = " ".join(part for part in (name or next(derived), logged.label) if part)
        named.setdefault(full, []).append(logged)
    if not seeds:
        faults += [
            f"{name}: {len(runs)} runs have this name ({', '.join(str(run.files[0]) for run in runs)}); give each its "
            "own as NAME=PATH, or --seeds to have them averaged"
            for name, runs in named.items()
            if len(runs) > 1
        ]
    methods = [Method(name, tuple(runs)) for name, runs in named.items()]
    if seeds and not faults:
        faults += [f"{m.name}: its {len(m.runs)} runs have no step in common" for m in methods if not m.mean.records]
    if faults:
        raise SourceError("\n".join(faults))
    return methods


def split(argument: str) -> tuple[str, Path]:
    """``NAME=PATH`` -> both; a path that has an equals sign in it and exists is a path."""
    name, sign, rest = argument.partition("=")
    if sign and name and not Path(argument).expanduser().exists():
        return name, Path(rest).expanduser()
    return "", Path(argument).expanduser()


def _place(path: Path, seeds: bool) -> tuple[str, ...]:
    """The parts of a path that tell runs apart, without a seed if asked for."""
    path = path.resolve()
    parts = list(path.parts[1:])
    if path.is_file():
        # The name of such a file is the same for all runs, or says less than its folder's.
        parts[-1:] = [] if path.stem.startswith(("metrics", "run-", "events")) else [path.stem]
    while len(parts) > 1 and parts[-1] in _PLAIN:
        parts.pop()
    if seeds and parts and (short := _SEED.sub("", parts[-1])) != parts[-1]:
        parts[-1:] = [short] if short else []
    return tuple(parts) or (str(path),)


def short_names(places: Sequence[tuple[str, ...]]) -> list[str]:
    """The shortest ends of paths that are as different as the paths, without an end that all have in common.

    Example:
        >>> short_names([("out", "espo", "seed1"), ("out", "gspo", "seed1")])
        ['espo', 'gspo']
        >>> short_names([("out", "espo", "seed1"), ("out", "espo", "seed2")])
        ['espo/seed1', 'espo/seed2']
    """
    different = set(places)
    while len(different) > 1 and all(len(p) > 1 for p in different) and len({p[-1] for p in different}) == 1:
        places = [place[:-1] for place in places]
        different = set(places)
    least = 2 if any(_SEED.fullmatch(place[-1]) for place in different) else 1
    length = next((n for n in range(least, 99) if len({place[-n:] for place in different}) == len(different)), 99)
    return ["/".join(place[-length:]) for place in places]

"""study.yaml: methods, models, seeds and the choices that all runs share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from verl_ext.recipe_files.reader import Reader, RecipeError

FILE = "study.yaml"
RESULTS, TUNING = "results", "tuning"
SEED_KEYS = ("data.seed", "actor_rollout_ref.rollout.seed", "actor_rollout_ref.actor.data_loader_seed")


@dataclass(frozen=True)
class Method:
    """A method of the study.

    Attributes:
        name: names its results.
        label: for people.
        algo: a file of configs/algo.
        overrides: Hydra overrides on top of it.
        implied: further ones, which results may lack: they were defaults when those were made.
    """

    name: str
    label: str
    algo: str
    overrides: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run: a method on a model with a seed.

    Attributes:
        study: it belongs to; gives the settings that all share.
        tuning: a candidate of the tuning, not part of the comparison.
    """

    study: Study
    model: str
    method: Method
    seed: int
    tuning: bool = False

    @property
    def name(self) -> str:
        return f"{self.model}/{self.method.name}-seed{self.seed}"

    @property
    def result_file(self) -> Path:
        return self.study.folder / (TUNING if self.tuning else RESULTS) / f"{self.name}.json"

    def arguments(self) -> list[str]:
        """Arguments of `verl-ext train` without any path: they are in the result."""
        choices = {**self.study.choices, "model": self.model, "algo": self.method.algo}
        seeds = [f"{key}={self.seed}" for key in SEED_KEYS]
        own = (*self.method.overrides, *self.method.implied)
        return [*(f"{group}={option}" for group, option in choices.items()), *seeds, *own]

    def is_of(self, arguments: Iterable[str]) -> bool:
        """Whether a run with these arguments is this one."""
        return sorted({*arguments, *self.method.implied}) == sorted(self.arguments())


@dataclass(frozen=True)
class Tuning:
    """Candidates for the settings of one method.

    Attributes:
        method: whose overrides are the best candidate's.
        candidates: name -> overrides.
    """

    method: str
    model: str
    seed: int
    candidates: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Study:
    """A folder with study.yaml and the results so far.

    Attributes:
        choices: group -> option of the configuration, the same for all runs.
        models: model -> names of its methods, in the order in which they are run.
        limit_s: seconds that a run may take.
    """

    folder: Path
    name: str
    choices: dict[str, str]
    seeds: tuple[int, ...]
    limit_s: float
    models: dict[str, tuple[str, ...]]
    methods: dict[str, Method]
    tuning: Tuning | None = field(default=None)

    def cells(self) -> list[Cell]:
        """The tuning, then everything with the first seed, then with the second ...: a study that is interrupted has
        compared all methods with fewer seeds."""
        return [*self._tuning_cells(), *self.compared()]

    def compared(self) -> list[Cell]:
        """The runs that are compared."""
        return [
            Cell(self, model, self.methods[name], seed)
            for seed in self.seeds
            for model, names in self.models.items()
            for name in names
        ]

    def _tuning_cells(self) -> Iterator[Cell]:
        if self.tuning is None:
            return
        tuned = self.methods[self.tuning.method]
        for name, overrides in self.tuning.candidates.items():
            yield Cell(self, self.tuning.model, Method(name, name, tuned.algo, overrides), self.tuning.seed, True)


def read(folder: Path) -> Study:
    """Read a study.

    Raises:
        RecipeError: listing every fault of the file.
    """
    path = folder / FILE
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError([f"{folder} is no study: it has no {FILE}"]) from None
    except yaml.YAMLError as error:
        raise RecipeError([f"{path}: {error}"]) from error
    reader = Reader(str(path))
    required = {"name": str, "choices": dict, "seeds": list, "limit_s": float, "models": dict, "methods": dict}
    if not reader.keys(data, str(path), required, {"tuning": dict}):
        raise RecipeError(reader.faults)
    methods = _methods(data["methods"], reader)
    _check(data, methods, reader)
    tuning = _tuning(data.get("tuning"), data["methods"], data["models"], reader)
    if reader.faults:
        raise RecipeError(reader.faults)
    models = {model: tuple(names) for model, names in data["models"].items()}
    return Study(
        folder.absolute(), data["name"], dict(data["choices"]), tuple(data["seeds"]), data["limit_s"], models, methods,
        tuning,
    )  # fmt: skip


def _methods(given: dict[str, Any], reader: Reader) -> dict[str, Method]:
    found = {}
    for name, one in given.items():
        where = f"{reader.where}: methods.{name}"
        if reader.keys(one, where, {"label": str, "algo": str}, {"overrides": list, "implied": list}):
            own = (tuple(one.get(key) or ()) for key in ("overrides", "implied"))
            found[name] = Method(name, one["label"], one["algo"], *own)
    return found


def _check(data: dict[str, Any], methods: dict[str, Method], reader: Reader) -> None:
    for model, names in data["models"].items():
        if not isinstance(names, list) or not names:
            reader.faults.append(f"{reader.where}: models.{model} must be a list of methods, got {names!r}")
            continue
        reader.twice(names, f"models.{model}")
        if unknown := [str(name) for name in names if name not in data["methods"]]:
            reader.faults.append(f"{reader.where}: models.{model}: no such method: {', '.join(unknown)}")
    if not data["seeds"] or not all(isinstance(seed, int) for seed in data["seeds"]):
        reader.faults.append(f"{reader.where}: seeds must be whole numbers, got {data['seeds']!r}")
    reader.twice(map(str, data["seeds"]), "seeds")


def _tuning(given: Any, methods: dict[str, Any], models: dict[str, Any], reader: Reader) -> Tuning | None:
    if given is None:
        return None
    where = f"{reader.where}: tuning"
    if not reader.keys(given, where, {"method": str, "model": str, "seed": int, "candidates": dict}, {}):
        return None
    for key, known in (("method", methods), ("model", models)):
        if given[key] not in known:
            reader.faults.append(f"{where}: {key} {given[key]} is not one of {', '.join(known)}")
    candidates = {name: tuple(overrides or ()) for name, overrides in given["candidates"].items()}
    return Tuning(given["method"], given["model"], given["seed"], candidates)

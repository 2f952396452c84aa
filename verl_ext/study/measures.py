"""Numbers of a study: means over seeds with their intervals, curves, crossings, differences paired by seed.

`Runs` are those of a method on a model, one a seed. Runs of one seed see the same problems in the same order whatever
their method, so that methods are compared seed by seed, and the interval is over the seeds' differences or shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

from verl_ext.study.intervals import BySeed, Estimate, estimate, first_crossing
from verl_ext.study.results import Result


class Curve(NamedTuple):
    """A quantity over steps: the estimate over seeds at each step that all runs have, and each seed's own values."""

    steps: list[int]
    estimates: list[Estimate]
    seeds: dict[int, list[float]]

    @property
    def mean(self) -> list[float]:
        return [estimate.mean for estimate in self.estimates]


@dataclass(frozen=True)
class Runs:
    """The runs of a method on a model, in the order of their seeds."""

    model: str
    method: str
    runs: tuple[Result, ...]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def only(self, seeds: Iterable[int]) -> Runs:
        """The runs with some of the seeds."""
        wanted = set(seeds)
        return Runs(self.model, self.method, tuple(run for run in self.runs if run.seed in wanted))

    def by_seed(self, number: Callable[[Result], float | None]) -> BySeed:
        """A number of each run that has it."""
        found = ((run.seed, number(run)) for run in self.runs)
        return {seed: value for seed, value in found if value is not None}

    def accuracy(self) -> Curve:
        """Validation accuracy, step 0 included."""
        return curve({run.seed: (run.validation["step"], run.validation["accuracy"]) for run in self.runs})

    def curve(self, name: str) -> Curve:
        """One of the curves of training steps; empty if no run has it."""
        found = {run.seed: (run.curves["step"], run.curves[name]) for run in self.runs if run.curves.get(name)}
        return curve(found)

    def start(self) -> BySeed:
        """Validation accuracy before training."""
        return self.by_seed(lambda run: run.validation["accuracy"][0])

    def final(self) -> BySeed:
        """Validation accuracy after the last step."""
        return self.by_seed(lambda run: run.validation["accuracy"][-1])

    def average(self, *names: str) -> BySeed:
        """The mean over steps of a curve, or of the sum of several."""
        return self.by_seed(lambda run: _total(run, names, fmean))

    def first(self, name: str) -> BySeed:
        """A curve's value at the first step."""
        return self.by_seed(lambda run: _total(run, [name], lambda values: values[0]))

    def early(self, name: str) -> BySeed:
        """The mean over the first third of the steps."""
        return self.by_seed(lambda run: _total(run, [name], lambda values: fmean(values[: third(values)])))

    def late(self, name: str) -> BySeed:
        """The mean over the last third of the steps."""
        return self.by_seed(lambda run: _total(run, [name], lambda values: fmean(values[-third(values) :])))

    def seconds(self, without: Sequence[str] = ()) -> BySeed:
        """Median seconds a step, less the medians of the phases named."""
        phases = self.phases()
        whole = self.by_seed(lambda run: _total(run, ["seconds"], median))
        return {
            seed: value - sum(phases.get(name, {}).get(seed, 0.0) for name in without) for seed, value in whole.items()
        }

    def phases(self) -> dict[str, BySeed]:
        """Phase -> median seconds a step."""
        names = list(dict.fromkeys(name for run in self.runs for name in run.phases))
        return {name: self.by_seed(lambda run, name=name: _median(run.phases.get(name))) for name in names}  # type: ignore[misc]

    def reaches(self, level: float) -> float | None:
        """The step at which the mean validation curve reaches an accuracy."""
        found = self.accuracy()
        return first_crossing(found.steps, found.mean, level)

    def reaches_by_seed(self, levels: BySeed) -> dict[int, float | None]:
        """Seed -> step at which its own validation curve reaches that seed's accuracy; None where it does not."""
        return {
            run.seed: first_crossing(run.validation["step"], run.validation["accuracy"], levels[run.seed])
            for run in self.runs
            if run.seed in levels
        }


def third(values: Sequence[float]) -> int:
    """How many of the values are a third, at least one."""
    return max(1, len(values) // 3)


def _total(run: Result, names: Sequence[str], number: Callable[[list[float]], float]) -> float | None:
    columns = [run.curves.get(name) or [] for name in names]
    if not all(columns):
        return None
    return number([sum(values) for values in zip(*columns, strict=True)])


def _median(values: Sequence[float] | None) -> float | None:
    return median(values) if values else None


def curve(series: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> Curve:
    """Seed -> (steps, values), as a curve over the steps that all seeds have."""
    found = {seed: dict(zip(*one, strict=True)) for seed, one in series.items()}
    steps = [int(step) for step in sorted(set.intersection(*map(set, found.values())))] if found else []
    estimates = [estimate(one[step] for one in found.values()) for step in steps]
    return Curve(steps, estimates, {seed: [one[step] for step in steps] for seed, one in found.items()})


def by_method(results: Iterable[Result]) -> dict[tuple[str, str], Runs]:
    """(model, method) -> its runs."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.model, result.method), []).append(result)
    return {
        (model, method): Runs(model, method, tuple(sorted(runs, key=lambda run: run.seed)))
        for (model, method), runs in found.items()
    }

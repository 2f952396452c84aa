"""The tables of docs/study.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from verl_ext.study.intervals import BySeed, estimate, paired
from verl_ext.study.measures import Runs
from verl_ext.study.results import Result
from verl_ext.study.schema import Study
from verl_ext.study.wording import Form, form, worded

NONE = ""
share, fine, signed = form("{:.1f}", 100), form("{:.2f}", 100), form("{:+.1f}", 100)
plain, nats, whole = form("{:.2f}"), form("{:.4f}"), form("{:.0f}")
Found = Mapping[tuple[str, str], Runs]


@dataclass(frozen=True)
class Table:
    """A table of the page; its first column is text, the others are numbers, or text too."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True

    def __str__(self) -> str:
        rule = ["---", *["---:" if self.numbers else "---"] * (len(self.columns) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [self.columns, rule, *self.rows])


def runs_table(study: Study, found: Found) -> Table:
    """Seeds that are there, and those that are missing."""

    def cell(model: str, method: str) -> str:
        if method not in study.models[model]:
            return NONE
        there = found[model, method].seeds if (model, method) in found else []
        missing = [str(seed) for seed in study.seeds if seed not in there]
        note = f"; missing: {', '.join(missing)}" if missing else ""
        return f"{len(there)} of {len(study.seeds)}{note}"

    names = dict.fromkeys(name for names in study.models.values() for name in names)
    rows = [[study.methods[name].label, f"`{name}`", *(cell(model, name) for model in study.models)] for name in names]
    return Table(["method", "name", *(f"`{model}`, seeds" for model in study.models)], rows, numbers=False)


def accuracy_table(study: Study, runs: Sequence[Runs], marks: Mapping[str, Runs]) -> Table:
    """Accuracy before and after, and differences paired by seed."""
    rows = []
    for one in runs:
        against = [
            NONE if mark.method == one.method else shown(paired(one.final(), mark.final()), signed)
            for mark in marks.values()
        ]
        row = [shown(one.start(), share, 0, 1), shown(one.final(), share, 0, 1), str(len(one.runs)), *against]
        rows.append([study.methods[one.method].label, *row])
    return Table(["method", "before", "after", "seeds", *(f"less `{name}`" for name in marks)], rows)


def steps_table(study: Study, runs: Sequence[Runs], marks: Mapping[str, Runs]) -> Table:
    """Steps to reach the last accuracy of the marks: of the mean curve, and by seed."""

    def cell(one: Runs, mark: Runs) -> str:
        if one.method == mark.method:
            return NONE
        whole = one.only(mark.seeds).reaches(estimate(mark.only(one.seeds).final().values()).mean)
        by_seed = one.reaches_by_seed(mark.final())
        each = ", ".join("not reached" if step is None else f"{step:.1f}" for step in by_seed.values())
        return f"{'not reached' if whole is None else f'{whole:.1f}'} ({each})"

    rows = [
        [
            study.methods[one.method].label,
            *(cell(one, mark) if together(one, mark) else NONE for mark in marks.values()),
        ]
        for one in runs
    ]
    return Table(["method", *(f"to `{name}`" for name in marks)], rows)


def clipping_table(study: Study, runs: Sequence[Runs]) -> Table:
    """Clip fractions, mean over the steps."""
    names = ("clip_low", "clip_high", "clip_low_sequences", "clip_high_sequences")
    rows = [
        [study.methods[one.method].label, *(shown(one.average(name), fine, 0, 1) for name in names)] for one in runs
    ]
    return Table(["method", "tokens below", "tokens above", "responses below", "responses above"], rows)


def training_table(study: Study, runs: Sequence[Runs]) -> Table:
    """Entropy, gradient norm and response length."""
    rows = [
        [
            study.methods[one.method].label,
            shown(one.first("entropy"), nats),
            shown(one.late("entropy"), nats),
            shown(one.average("entropy"), nats),
            shown(one.average("grad_norm"), plain),
            shown(one.early("response_length"), plain),
            shown(one.late("response_length"), plain),
        ]
        for one in runs
    ]
    columns = ["method", "entropy, first step", "last third", "mean", "gradient norm, mean"]
    return Table([*columns, "tokens a response, first third", "last third"], rows)


def time_table(study: Study, runs: Sequence[Runs]) -> Table:
    """Seconds a step by phase, and of whole runs."""
    phases = list(dict.fromkeys(name for one in runs for name in one.phases()))
    rows = [
        [
            study.methods[one.method].label,
            shown(one.seconds(), plain),
            *(mean_of(one.phases().get(name, {}), plain) for name in phases),
            mean_of(one.by_seed(lambda run: run.startup_seconds), whole),
            mean_of(one.by_seed(lambda run: run.seconds), whole),
        ]
        for one in runs
    ]
    return Table(["method", "a step", *phases, "start-up", "whole run"], rows)


def settings_table(study: Study) -> Table:
    """What tells the methods apart."""
    rows = [
        [one.label, f"`configs/algo/{one.algo}.yaml`", " ".join(f"`{text}`" for text in one.overrides + one.implied)]
        for one in study.methods.values()
    ]
    return Table(["method", "file", "and"], rows, numbers=False)


def tuning_table(study: Study, tuned: Sequence[Result]) -> Table | None:
    """Candidates of the tuning and what they gave; None where none was run."""
    if study.tuning is None or not tuned:
        return None
    last = {one.method: one.validation["accuracy"][-1] for one in tuned}
    chosen = study.methods[study.tuning.method].overrides
    rows = [
        [
            " ".join(f"`{text}`" for text in overrides),
            share(last[name]) if name in last else "not run",
            "yes" if overrides == chosen else NONE,
        ]
        for name, overrides in study.tuning.candidates.items()
    ]
    return Table(["candidate", "last accuracy", "chosen"], rows)


# --- numbers


def together(one: Runs, other: Runs) -> bool:
    """Whether two methods have a seed in common."""
    return bool(set(one.seeds) & set(other.seeds))


def shown(values: BySeed, write: Form, least: float = -math.inf, most: float = math.inf) -> str:
    """Mean and interval, cut where no value can be; nothing where there are no numbers."""
    if not values:
        return NONE
    found = estimate(values.values())
    if found.low is not None and found.high is not None:
        found = replace(found, low=max(least, found.low), high=min(most, found.high))
    return worded(found, write)


def mean_of(values: BySeed, write: Form) -> str:
    return write(estimate(values.values()).mean) if values else NONE

"""From what a run wrote (metrics and token export) to its `Result`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext import batch_file
from verl_ext.run_report.history import History, Series
from verl_ext.study.results import Result

if TYPE_CHECKING:
    from verl_ext.batch_file import BatchFile
    from verl_ext.study.schema import Cell

EXPORT = "token_export"
# What a run depends on in a checkout: the results themselves, committed one by one, are not part of it.
CODE = ("verl_ext", "configs", "requirements")
# Curve -> metric, or one of `verl_ext.run_report.history.QUANTITIES`.
LOGGED = {
    "reward": "reward",
    "grad_norm": "actor/grad_norm",
    "response_length": "response length",
    "seconds": "seconds a step",
}


class IncompleteRun(ValueError):
    """A run that ended before its last step, or did not write what a result needs."""


def collect(cell: Cell, folder: Path, metrics: Path, seconds: float, startup_seconds: float, problems: int) -> Result:
    """The result of a run that has ended.

    Args:
        cell: which run.
        folder: where it worked.
        metrics: what it logged.
        seconds, startup_seconds: launch to end, launch to the first validation.
        problems: number of validation problems.

    Raises:
        IncompleteRun: with everything that is missing.
    """
    from verl_ext.demo.report import versions
    from verl_ext.tables.results import commit

    history = History.read(metrics)
    steps = [record.step for record in history.steps()]
    if not steps:
        raise IncompleteRun(f"{metrics} has no training step")
    faults: list[str] = []
    curves = {"step": [float(step) for step in steps]}
    for name, quantity in LOGGED.items():
        curves[name] = _whole(history.series(quantity), steps, name, faults)
    rows = []
    for step in steps:
        try:
            rows.append(tokens(batch_file.read_all(folder / EXPORT / f"step-{step:05d}")))
        except (ValueError, OSError) as error:
            faults.append(str(error))
    if len(rows) == len(steps):
        curves.update({name: [row[name] for row in rows] for name in rows[0]})
    phases = {name: _whole(series, steps, name, faults) for name, series in history.phases().items()}
    at, accuracy = history.accuracy()
    if not at or at[-1] != steps[-1]:
        faults.append(f"no validation after the last step, {steps[-1]}")
    if faults:
        raise IncompleteRun("; ".join(faults))
    return Result(
        study=cell.study.name, model=cell.model, method=cell.method.name, seed=cell.seed, steps=len(steps),
        arguments=tuple(cell.arguments()), commit=commit(*CODE), versions=versions(),
        finished=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), seconds=seconds,
        startup_seconds=startup_seconds, validation={"step": at, "accuracy": accuracy, "problems": problems},
        curves=curves, phases=phases,
    )  # fmt: skip


def tokens(batch: BatchFile) -> dict[str, float]:
    """What one step's tokens say: mean entropy, clip fractions of tokens and of responses.

    Raises:
        ValueError: if the export lacks a column, or a valid token has an entropy that is no number.
    """
    import numpy as np

    needed = ("response_mask", "entropy", "clipped_low", "clipped_high")
    if absent := [name for name in needed if name not in batch.columns]:
        raise ValueError(f"step {batch.step}: the token export has no column {', '.join(absent)}")
    valid = batch.padded("response_mask") > 0
    entropy = batch.padded("entropy")[valid]
    if not np.isfinite(entropy).all():
        raise ValueError(f"step {batch.step}: {(~np.isfinite(entropy)).sum()} entropies are not finite")
    found = {"entropy": float(entropy.mean())}
    for side in ("low", "high"):
        clipped = (batch.padded(f"clipped_{side}") > 0) & valid
        found[f"clip_{side}"] = float(clipped.sum() / valid.sum())
        found[f"clip_{side}_sequences"] = float(clipped.any(axis=1).mean())
    return found


def _whole(series: Series, steps: list[int], name: str, faults: list[str]) -> list[float]:
    """The values of a series, one a step; what is missing is noted."""
    at, values = series
    if at != steps:
        faults.append(f"{name}: {len(at)} of {len(steps)} steps have it")
    return values

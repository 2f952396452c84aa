"""The steps in the logs of a run's attempts, as verl's console logger shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from verl_ext.live.logs import read_step

Rows = dict[int, dict[str, float]]


def rows(files: Sequence[Path]) -> tuple[Rows, list[str]]:
    """Step -> metrics of the run that the last attempt ended, and notes on what earlier ones lost.

    An attempt takes the run up at its first step: what earlier ones made of that step and of later ones is gone, and
    so are their numbers. Only where it begins with a validation by itself, the weights are those of the step before.

    Args:
        files: one an attempt, in order.
    """
    found: Rows = {}
    notes = []
    for file in files:
        fresh = steps(file)
        if not fresh:
            continue
        first = min(fresh)
        validated = "timing_s/step" not in fresh[first]
        lost = [step for step in found if step > first or (step == first and not validated)]
        if lost:
            notes.append(f"{len(lost)} steps of earlier attempts are left out: {file.name} begins at step {first}")
        kept = {step: values for step, values in found.items() if step not in lost}
        found = {**kept, **fresh, first: {**kept.get(first, {}), **fresh[first]}}
    return found, notes


def steps(file: Path) -> Rows:
    """Step -> metrics of one log; several lines of a step are joined."""
    found: Rows = {}
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (record := read_step(line)) is not None:
                found.setdefault(record.step, {}).update(record.values)
    return found

"""Scores of kept responses: no model is needed, so any verifier can be put to them at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_ext.evaluation.store import SCORES, Generation, Store, write_table

MOST_WORKERS = 8


@dataclass(frozen=True)
class Score:
    """What a verifier said of one response. `verifier` is its name and version."""

    index: int
    sample: int
    outcome: str
    boxed: bool
    verifier: str
    detail: str


def _verifiers() -> Any:
    from verl_ext.rewards import verifiers

    return verifiers


def verifier_version(name: str) -> str:
    """The version that scores carry, for instance ``math-verify 0.9.0, verl_ext 0.1.0/1``.

    Raises:
        ValueError: if there is no such verifier.
    """
    return str(_verifiers().get(name).version)


def score(store: Store, verifier: str, workers: int | None, tick: Callable[[int], None], target: Path) -> list[Score]:
    """Grade the responses of a folder and write the scores.

    Args:
        store: a folder whose responses are all there.
        verifier: a name that `verl_ext.rewards.verifiers` knows.
        workers: grading processes; None for one a core, at most 8.
        tick: called with the number of responses graded so far.
        target: the parquet file.
    """
    truths = {problem.index: problem.ground_truth for problem in store.problems()}
    found = []
    for one in _graded(store.generations(), truths, verifier, workers or min(MOST_WORKERS, os.cpu_count() or 1)):
        found.append(one)
        tick(len(found))
    write_table([asdict(one) for one in found], SCORES, target)
    return found


def _graded(rows: list[Generation], truths: dict[int, str], verifier: str, workers: int) -> Iterator[Score]:
    verifiers = _verifiers()
    chosen = verifiers.get(verifier)
    pairs = [(row.response, truths[row.index]) for row in rows]
    for row, graded in zip(rows, verifiers.grade_many(chosen, pairs, workers), strict=True):
        yield Score(row.index, row.sample, graded.outcome, bool(graded.boxed), chosen.version, graded.detail)

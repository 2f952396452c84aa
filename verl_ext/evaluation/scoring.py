"""Scores of kept responses: no model is needed, so any verifier can be put to them at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_ext.evaluation.store import SCORES, Generation, Store, write_table
from verl_ext.rewards.answer_text import DEFAULT_FORMAT, AnswerFormat

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


def verifier_version(name: str, answer_format: AnswerFormat = DEFAULT_FORMAT) -> str:
    """The version that scores carry, for instance ``math-verify 0.9.0, verl_ext 0.1.0/4 answer_line``.

    Raises:
        ValueError: if there is no such verifier.
    """
    return str(_verifiers().get(name).described(answer_format))


def score(store: Store, verifier: str, workers: int | None, tick: Callable[[int], None], target: Path) -> list[Score]:
    """Grade the responses of a folder, in the answer format that its request records, and write the scores.

    Args:
        store: a folder whose responses are all there.
        verifier: a name that `verl_ext.rewards.verifiers` knows.
        workers: grading processes; None for one a core, at most 8.
        tick: called with the number of responses graded so far.
        target: the parquet file.
    """
    truths = {problem.index: problem.ground_truth for problem in store.problems()}
    found = []
    workers = workers or min(MOST_WORKERS, os.cpu_count() or 1)
    for one in _graded(store.generations(), truths, verifier, workers, store.answer_format):
        found.append(one)
        tick(len(found))
    write_table([asdict(one) for one in found], SCORES, target)
    return found


def _graded(
    rows: list[Generation], truths: dict[int, str], verifier: str, workers: int, answer_format: AnswerFormat
) -> Iterator[Score]:
    verifiers = _verifiers()
    chosen = verifiers.get(verifier)
    pairs = [(row.response, truths[row.index]) for row in rows]
    version = chosen.described(answer_format)
    results = verifiers.grade_many(chosen, pairs, workers, answer_format=answer_format)
    for row, graded in zip(rows, results, strict=True):
        yield Score(row.index, row.sample, graded.outcome, bool(graded.boxed), version, graded.detail)

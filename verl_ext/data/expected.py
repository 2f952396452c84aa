"""Whether a source holds what the registry says of it: numbers of rows, contents, answers that are numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verl_ext.data.dataset import Dataset
from verl_ext.data.faults import Faults, Place
from verl_ext.data.problems import Collected, Problem, snippet
from verl_ext.data.sources import Opened

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_CHOICES = ("(A)", "(B)", "(C)")
_SPACE = re.compile(r"\s|\\ ")


def check(
    dataset: Dataset, opened: Opened, collected: Collected, faults: Faults, accept_unverified: bool, split: str = "test"
) -> None:
    """Add to `faults` what differs from what is known.

    Args:
        dataset: what is known.
        opened: the source.
        collected: what it holds.
        faults: is added to.
        accept_unverified: whether other numbers and contents pass; choices in place of numbers never do.
        split: of a set of both kinds, the one that was read.
    """
    if dataset.numeric:
        _check_numeric(collected.problems, faults)
    if accept_unverified:
        return
    accept = "if this source is meant, accept it with --unverified"
    other = dataset.kind == "both" and split == "train"
    problems, rows = (None, dataset.train_rows) if other else (dataset.problems, dataset.rows)
    if problems is not None and collected.texts != problems:
        faults.add(f"{collected.texts} different problems where {problems} are expected; {accept}")
    if rows is not None and collected.rows != rows:
        faults.add(f"{collected.rows} rows where {rows} are expected; {accept}")
    if dataset.drawn is not None and len(collected.problems) < dataset.drawn:
        faults.add(f"{len(collected.problems)} problems, of which {dataset.drawn} are to be drawn; {accept}")
    # The hub's contents were not seen when the registry was written, those of local files were.
    if opened.revision is None and dataset.known and known_as(dataset, collected) is None:
        origins = " or ".join(known.origin for known in dataset.known)
        faults.add(f"content {collected.content_sha256[:12]} is not that of {origins}; {accept}")


def known_as(dataset: Dataset, collected: Collected) -> str | None:
    """Whose contents these are, if they were seen before."""
    if dataset.made is not None:
        return "verl_ext"
    return next((k.origin for k in dataset.known if k.content_sha256 == collected.content_sha256), None)


def _check_numeric(problems: Sequence[Problem], faults: Faults) -> None:
    for problem in problems:
        text = _SPACE.sub("", problem.text)
        if not _NUMBER.fullmatch(problem.answer):
            what = "the answer is no number; the version of this benchmark with choices A to E is another"
            faults.add(what, Place(problem.row, problem.key, repr(problem.answer)))
        if all(choice in text for choice in _CHOICES):
            what = "the problem lists choices; this benchmark is the version with a number for an answer"
            faults.add(what, Place(problem.row, problem.key, snippet(problem.text)))

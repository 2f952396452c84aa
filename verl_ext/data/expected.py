"""Whether a source holds what the registry says of it: numbers of rows, contents, answers that are numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verl_ext.data.faults import Faults, Place
from verl_ext.data.problems import Collected, Problem, snippet
from verl_ext.data.registry import Dataset
from verl_ext.data.sources import Opened

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_CHOICES = ("(A)", "(B)", "(C)")
_SPACE = re.compile(r"\s|\\ ")


def check(dataset: Dataset, opened: Opened, collected: Collected, faults: Faults, accept_unverified: bool) -> None:
    """Add to `faults` what differs from the registry.

    Args:
        dataset: what is known.
        opened: the source.
        collected: what it holds.
        faults: is added to.
        accept_unverified: whether other numbers and contents pass; choices in place of numbers never do.
    """
    if dataset.numeric:
        _check_numeric(collected.problems, faults)
    if accept_unverified:
        return
    accept = "if this source is meant, accept it with --unverified"
    if dataset.problems is not None and collected.texts != dataset.problems:
        faults.add(f"{collected.texts} different problems where {dataset.problems} are expected; {accept}")
    if dataset.rows is not None and collected.rows != dataset.rows:
        faults.add(f"{collected.rows} rows where {dataset.rows} are expected; {accept}")
    # The hub's contents were not seen when the registry was written, those of local files were.
    if opened.revision is None and dataset.known and known_as(dataset, collected) is None:
        origins = " or ".join(known.origin for known in dataset.known)
        faults.add(f"content {collected.content_sha256[:12]} is not that of {origins}; {accept}")


def known_as(dataset: Dataset, collected: Collected) -> str | None:
    """Whose contents these are, if they were seen before."""
    if dataset.hub is None:
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

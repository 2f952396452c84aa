"""What is known of a data set: where it comes from, how its rows are read, how many there are, what is faulty."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from verl_ext.data.problems import Exemption
from verl_ext.data.sources import Hub, Row
from verl_ext.data.templates import TEMPLATES
from verl_ext.rewards.answer_text import DEFAULT_FORMAT, AnswerFormat

Kind = Literal["train", "benchmark", "both"]
STEER = "data folder of zz-haooo/STEER (arXiv 2510.10150)"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Known:
    """Contents that were seen and checked: their hash (see `verl_ext.data.text.content_hash`), and whose they are."""

    origin: str
    content_sha256: str


@dataclass(frozen=True)
class Dataset:
    r"""A data set: ``SET`` of a file in ``verl_ext/data/sets``, of a file for ``--spec``, or of an entry point.

    Attributes:
        name: of the folder and of the configuration's choice.
        title: for people.
        kind: what it is used for. The files of ``both`` with "train" in their names are to train on, the others to
            evaluate on.
        template: that is used where none is asked for.
        hub: where it is downloaded; None for what is made here, or read from ``--from`` alone.
        made: rows of a split, ``train`` or ``test``, for what is made here.
        read: from a row of the source to one that `verl_ext.data.problems.collect` reads, with the columns problem and
            answer; None leaves the row out. A row that it does not know it returns as it is.
        rows: of the hub's files, as the literature has it; None where not known.
        problems: how many different problems it has; None where not known.
        train_rows: how many it has to train on, if these are others.
        drawn: so many of the problems are kept: those with the smallest keys.
        numeric: whether every answer is a number. A version with choices A to E is another benchmark.
        text_answers: whether its answers are choices or words, which equal the same text only.
        answer_format: how its prompts ask for the answer.
        validation: for a training set: the benchmark that ``data=<name>`` validates on.
        solutions: where the problems stand with their solutions; None if nobody trains on those.
        known: contents that were verified. Any other is marked unverified in its manifest.
        exemptions: rows that are faulty and known to be so; manifests report them.
        note: what one should know before use.

    Example:
        >>> own = Dataset("my_set", "problems of my own", "train", "boxed", read=lambda row: {
        ...     "problem": row["task"], "answer": row["result"]})
        >>> faults(own)
        []
    """

    name: str
    title: str
    kind: Kind
    template: str = "boxed"
    hub: Hub | None = None
    made: Callable[[str], Iterable[Row]] | None = None
    read: Callable[[Row], Row | None] | None = None
    rows: int | None = None
    problems: int | None = None
    train_rows: int | None = None
    drawn: int | None = None
    numeric: bool = False
    text_answers: bool = False
    answer_format: AnswerFormat = DEFAULT_FORMAT
    validation: str | None = None
    solutions: Hub | None = None
    known: tuple[Known, ...] = ()
    exemptions: tuple[Exemption, ...] = ()
    note: str = ""

    @property
    def source(self) -> str:
        """Where its rows are from, for people."""
        if self.hub is not None:
            return f"{self.hub.repo}@{(self.hub.revision or 'main')[:7]}"
        return "--from" if self.made is None else "made here"

    @property
    def verified(self) -> bool:
        return bool(self.known) or self.made is not None


def faults(dataset: Any) -> list[str]:
    """What keeps an object from being a data set, all of it: for sets that are not of this package."""
    if not isinstance(dataset, Dataset):
        return [f"SET is {type(dataset).__name__}, not verl_ext.data.dataset.Dataset"]
    typed = {
        "name": str, "title": str, "hub": Hub | None, "rows": int | None, "problems": int | None,
        "train_rows": int | None, "drawn": int | None, "numeric": bool, "text_answers": bool,
        "validation": str | None, "solutions": Hub | None, "known": tuple, "exemptions": tuple, "note": str,
    }  # fmt: skip
    wrong = [(name, kind) for name, kind in typed.items() if not isinstance(getattr(dataset, name), kind)]
    found = [
        f"{name} is {getattr(dataset, name)!r}; {getattr(kind, '__name__', kind)} is needed" for name, kind in wrong
    ]
    if isinstance(dataset.name, str) and not _NAME.fullmatch(dataset.name):
        found.append(f"name {dataset.name!r}: letters, digits and _, a letter first, as it names a folder")
    for name, options in (
        ("kind", get_args(Kind)),
        ("template", tuple(TEMPLATES)),
        ("answer_format", get_args(AnswerFormat)),
    ):
        if getattr(dataset, name) not in options:
            found.append(f"{name} {getattr(dataset, name)!r}: one of {', '.join(options)}")
    for name in ("read", "made"):
        if getattr(dataset, name) is not None and not callable(getattr(dataset, name)):
            found.append(f"{name} is {getattr(dataset, name)!r}, which cannot be called")
    found += [f"exemptions holds {one!r}, no Exemption" for one in dataset.exemptions if not isinstance(one, Exemption)]
    return found

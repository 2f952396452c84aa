"""The examples of a new project: the demo's arithmetic, or a file of one's own, as rows in verl's schema."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.data.ground_truths import answer_in
from verl_ext.rewards.answer_text import AnswerFormat

ANSWER_FORMAT: AnswerFormat = "auto"
"""Of the project's reward.py."""
TRAIN, VALIDATION = 256, 64
LEAST_TRAIN = 4
_SHARE = 10
"""Of one's own problems one in so many is kept for validation."""

Row = dict[str, Any]


class ProjectError(ValueError):
    """A project that cannot be made. `faults` are all that were found."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


@dataclass(frozen=True)
class Examples:
    """What the project trains and validates on.

    Attributes:
        train, validation: rows in verl's schema.
        source: where they come from, for the README.
    """

    train: list[Row]
    validation: list[Row]
    source: str

    @property
    def longest(self) -> int:
        """Bytes of the longest prompt: its tokens for the tiny model, whose tokens are bytes."""
        prompts = (row["prompt"] for row in (*self.train, *self.validation))
        return max(sum(len(message["content"].encode()) + 1 for message in prompt) for prompt in prompts)


def demo(name: str) -> Examples:
    """Problems of the demo's task, which the tiny model half knows."""
    from verl_ext.toy import task

    def rows(split: task.Split, count: int) -> Iterator[Row]:
        for index, problem in enumerate(task.problems(split, count, seed=0)):
            yield {**task.row(problem, index), "data_source": name}

    return Examples(list(rows("train", TRAIN)), list(rows("validation", VALIDATION)), "the demo's arithmetic")


def own(name: str, file: Path, template: str | None = None, text_answers: bool = False) -> Examples:
    """Problems of a file of one's own: parquet, jsonl, json, arrow or csv.

    Rows with a list of messages in the column ``prompt`` are in verl's schema and taken as they are, but for a ground
    truth in one of the shapes of `verl_ext.data.ground_truths`, which becomes the answer in it. Others have the columns
    problem and answer, or the other names that `verl_ext.data.problems` knows, and are read as `verl-ext data prepare`
    reads them. Either way the answers are checked as there.
    About a tenth goes to validation, chosen by a hash of problem and answer, so that more problems in the file move
    none from one side to the other.

    Args:
        name: of the project; the ``data_source`` of rows that have none.
        file: the problems.
        template: around each bare problem, of `verl_ext.data.templates`; None for ``boxed``.
        text_answers: whether words and choices are meant where more than a few answers are text.

    Raises:
        ProjectError: with every fault of the file.
    """
    from verl_ext.data.sources import SourceError, open_local

    try:
        found = list(open_local(file).rows())
    except SourceError as error:
        raise ProjectError([f"--data: {error}", *_template_faults(template)]) from error
    ready = bool(found) and isinstance(found[0].get("prompt"), list)
    made = _ready if ready else _bare
    keyed, shapes = made(name, file, found, template, text_answers)
    held = {key for key in keyed if _held_out(key)} or {*list(keyed)[-1:]}
    train = [row for key, row in keyed.items() if key not in held]
    if len(train) < LEAST_TRAIN:
        least = LEAST_TRAIN + 1
        raise ProjectError([f"--data {file} has {len(keyed)} different problems; at least {least} are needed"])
    read = ", ".join(f"{shape} of {count} rows" for shape, count in shapes.items() if shape not in ("text", "number"))
    source = f"{file.name} (answers taken from the {read})" if read else file.name
    return Examples(train, [row for key, row in keyed.items() if key in held], source)


def _template_faults(template: str | None) -> list[str]:
    from verl_ext.data.templates import TEMPLATES

    usable = [known for known, chosen in TEMPLATES.items() if not chosen.solved]
    if template is None or template in usable:
        return []
    return [f"--template {template}: no such template; there are {', '.join(usable)}"]


_Keyed = tuple[dict[str, Row], Mapping[str, int]]
"""Rows by their keys; shape of a ground truth -> how many rows of the file have it."""


def _bare(name: str, file: Path, found: list[Row], template: str | None, text_answers: bool) -> _Keyed:
    """Rows made of bare problems."""
    from verl_ext.data.answers import check
    from verl_ext.data.dataset import Dataset
    from verl_ext.data.faults import Faults
    from verl_ext.data.prepare import rows
    from verl_ext.data.problems import collect
    from verl_ext.data.templates import TEMPLATES

    faults = Faults()
    collected = collect(found, faults)
    problems = collected.problems
    check(problems, faults, answer_format=ANSWER_FORMAT, text_answers=text_answers)
    told = [f"--data {file}: {fault}" for fault in faults.all()]
    if any("--baked-in" in fault for fault in told):
        told.append("`verl-ext data prepare` has --baked-in; here take the text out, or give rows in verl's schema")
    if told := [*told, *_template_faults(template)]:
        raise ProjectError(told)
    made = rows(Dataset(name, name, "train"), TEMPLATES[template or "boxed"], problems, "train")
    keyed = {problem.key: {**row, "data_source": name} for problem, row in zip(problems, made, strict=True)}
    return keyed, {shape: facts["rows"] for shape, facts in collected.shapes.items()}


def _ready(name: str, file: Path, found: list[Row], template: str | None, text_answers: bool) -> _Keyed:
    """Rows that are in verl's schema already; of equal ones the first."""
    from verl_ext.data.answers import check
    from verl_ext.data.faults import Faults
    from verl_ext.data.problems import Problem
    from verl_ext.data.text import key

    told = [f"--template {template}: the rows of {file} have prompts of their own"] if template else []
    wrong = [str(number) for number, row in enumerate(found, start=1) if not _fits(row)]
    if wrong:
        shown = ", ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        told.append(
            f"--data {file}: rows {shown} need a prompt (a list of messages with role and content), "
            "reward_model.ground_truth (an answer, or a worked solution that marks it), and no values that JSON does "
            "not have"
        )
    keyed: dict[str, Row] = {}
    problems: dict[str, Problem] = {}
    shapes: Counter[str] = Counter()
    for number, row in enumerate(found):
        if not _fits(row):
            continue
        prompt = "\n".join(message["content"] for message in row["prompt"])
        answer, shape = answer_in(row["reward_model"]["ground_truth"])
        shapes[shape] += 1
        name_of_row = key(prompt, answer)
        marked = {"reward_model": {**row["reward_model"], "ground_truth": answer}}
        keyed.setdefault(name_of_row, {"data_source": name, **row, **marked})
        problems.setdefault(name_of_row, Problem(prompt, answer, name_of_row, number, ""))
    faults = Faults()
    check(list(problems.values()), faults, answer_format=ANSWER_FORMAT, text_answers=text_answers)
    if told := [*told, *(f"--data {file}: {fault}" for fault in faults.all())]:
        raise ProjectError(told)
    return keyed, shapes


def _fits(row: Row) -> bool:
    prompt, model = row.get("prompt"), row.get("reward_model")
    try:
        json.dumps(row)
        answer, _ = answer_in(model.get("ground_truth") if isinstance(model, dict) else None)
    except (TypeError, ValueError):
        return False
    return (
        bool(answer)
        and isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in prompt)
    )


def _held_out(key: str) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % _SHARE == 0

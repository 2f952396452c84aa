"""From the rows of a source to its problems: templates taken off, repetition undone, faults collected."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verl_ext.data.faults import Faults, Place
from verl_ext.data.templates import Baked, UnknownTemplateError, strip
from verl_ext.data.text import canonical, content_hash, key, normalised

PROBLEM_COLUMNS = ("problem", "question", "Problem", "Question")
ANSWER_COLUMNS = ("answer", "final_answer", "gt_answer", "ground_truth", "Answer")
SOLUTION_COLUMN = "solution"
_SNIPPET = 70
_AFFIX = 25
_FEW = 8


@dataclass(frozen=True)
class Exemption:
    """A row that is faulty and known to be so.

    Attributes:
        key: of its problem and answer, see `verl_ext.data.text.key`.
        action: ``"exclude"`` leaves the row out, ``"keep"`` keeps it although its answer cannot be verified.
        reason: for the manifest.
    """

    key: str
    action: Literal["exclude", "keep"]
    reason: str


def read_exemptions(file: Path) -> tuple[Exemption, ...]:
    """A JSON list of objects with key, action and reason.

    Raises:
        ValueError: with every entry that is not of this form.
    """
    entries = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ValueError(f"{file.name} is not a list of objects with key, action and reason")
    wrong = [
        str(number)
        for number, entry in enumerate(entries)
        if not isinstance(entry, dict)
        or set(entry) != {"key", "action", "reason"}
        or entry["action"] not in ("exclude", "keep")
        or not all(isinstance(value, str) and value.strip() for value in entry.values())
    ]
    if wrong:
        raise ValueError(
            f"{file.name}: entries {', '.join(wrong)} need a key, an action (exclude or keep) and a reason, and no more"
        )
    return tuple(Exemption(**entry) for entry in entries)


@dataclass
class Problem:
    """A problem of a source.

    Attributes:
        text, answer: as in the source, without the template and without white space at the ends.
        key: of both.
        row: where the source has it first.
        source_index: what the source calls it, or an empty string.
        copies: how often the source has it.
        solution: as in the source, without white space at the ends; None where the source has no such column.
    """

    text: str
    answer: str
    key: str
    row: int
    source_index: str
    copies: int = 1
    solution: str | None = None


@dataclass
class Collected:
    """What a source holds.

    Attributes:
        problems: one for each pair of canonical problem and answer, in the order of the source.
        rows: of the source.
        texts: number of different problems, those left out included.
        content_sha256: of all pairs, those left out included.
        baked: how many rows had which template.
        excluded: left out by an exemption, with the reason.
        unused: keys of exemptions that fit no row.
    """

    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    texts: int = 0
    content_sha256: str = ""
    baked: Counter[str] = field(default_factory=Counter)
    excluded: list[tuple[Problem, str]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def repetition(self) -> dict[str, int]:
        """How many problems the source has so many times, by the number of times."""
        counts = Counter(problem.copies for problem in [*self.problems, *(p for p, _ in self.excluded)])
        return {str(copies): counts[copies] for copies in sorted(counts)}


def collect(
    rows: Iterable[dict[str, Any]], faults: Faults, exemptions: Sequence[Exemption] = (), baked: Sequence[Baked] = ()
) -> Collected:
    """Read all rows; what is wrong with them goes to `faults`.

    Args:
        rows: in verl's schema (prompt, reward_model.ground_truth) or with columns named problem and answer, or one of
            the other names in `PROBLEM_COLUMNS` and `ANSWER_COLUMNS`.
        faults: is added to.
        exemptions: rows that are known to be faulty.
        baked: templates to look for beside those that are known.

    Example:
        >>> collected = collect([{"problem": "1+1=?", "answer": 2}] * 3, Faults())
        >>> [(p.text, p.answer, p.copies) for p in collected.problems]
        [('1+1=?', '2', 3)]
    """
    reader = _Reader(faults, {exemption.key: exemption for exemption in exemptions}, baked)
    for number, row in enumerate(rows):
        reader.add(number, row)
    if not reader.collected.rows:
        faults.add("the source has no rows")
    collected = reader.finish()
    _find_contradictions(collected.problems, faults)
    _find_affixes(collected.problems, faults)
    return collected


class _Reader:
    """Goes through the rows; equal rows are read once, as some sources repeat each a hundred times."""

    def __init__(self, faults: Faults, exemptions: dict[str, Exemption], baked: Sequence[Baked]) -> None:
        self.collected = Collected()
        self._faults = faults
        self._exemptions = exemptions
        self._baked = baked
        self._known: dict[str, tuple[Problem | None, list[str]]] = {}
        self._pairs: dict[tuple[str, str], Problem] = {}

    def add(self, number: int, row: dict[str, Any]) -> None:
        self.collected.rows += 1
        raw = repr([row.get(name) for name in ("prompt", "reward_model", *PROBLEM_COLUMNS, *ANSWER_COLUMNS)])
        if raw in self._known:
            problem = self._known[raw][0]
            if problem is not None:
                problem.copies += 1
        else:
            self._known[raw] = self._read(number, row)
        self.collected.baked.update(self._known[raw][1])

    def _read(self, number: int, row: dict[str, Any]) -> tuple[Problem | None, list[str]]:
        noted: list[tuple[str, str]] = []
        text, layers = _text(row, noted, self._baked)
        answer = _answer(row, noted)
        name = key(text, answer)
        exempt = self._exemptions.get(name)
        if noted and (exempt is None or exempt.action != "exclude"):
            for what, seen in noted:
                self._faults.add(what, Place(number, name, seen or snippet(text)))
            return None, layers
        fresh = Problem(text, answer, name, number, _source_index(row), copies=0, solution=solution_of(row))
        problem = self._pairs.setdefault((canonical(text), canonical(answer)), fresh)
        problem.copies += 1
        return problem, layers

    def finish(self) -> Collected:
        collected, everything = self.collected, list(self._pairs.values())
        for problem in everything:
            exempt = self._exemptions.get(problem.key)
            if exempt is not None and exempt.action == "exclude":
                collected.excluded.append((problem, exempt.reason))
            else:
                collected.problems.append(problem)
        collected.unused = sorted(set(self._exemptions) - {problem.key for problem in everything})
        collected.texts = len({canonical(problem.text) for problem in everything})
        collected.content_sha256 = content_hash((problem.text, problem.answer) for problem in everything)
        return collected


def problem_of(row: dict[str, Any]) -> str | None:
    """What stands in the first of `PROBLEM_COLUMNS` that the row has, if that is a text."""
    value = next((row[name] for name in PROBLEM_COLUMNS if name in row), None)
    return value if isinstance(value, str) else None


def solution_of(row: dict[str, Any]) -> str | None:
    """The solution of a row; None if it has no column of this name, empty if it holds no text."""
    if SOLUTION_COLUMN not in row:
        return None
    value = row[SOLUTION_COLUMN]
    return value.strip() if isinstance(value, str) else ""


def _text(row: dict[str, Any], noted: list[tuple[str, str]], baked: Sequence[Baked]) -> tuple[str, list[str]]:
    messages = row.get("prompt")
    if not isinstance(messages, list):
        name = next((name for name in PROBLEM_COLUMNS if name in row), None)
        if name is None:
            noted.append((f"no column prompt with messages, nor {', '.join(PROBLEM_COLUMNS[:2])}", _columns(row)))
            return "", []
        messages = [{"role": "user", "content": row[name]}]
    if not messages or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        noted.append(("the problem is not a text", repr(messages)[:_SNIPPET]))
        return "", []
    try:
        text, layers = strip(messages, baked)
    except UnknownTemplateError as error:
        noted.append(("the prompt has messages that are no known template; see --baked-in", str(error)))
        return messages[-1]["content"], []
    if not text:
        noted.append(("the problem is empty", ""))
    return text, layers


def _answer(row: dict[str, Any], noted: list[tuple[str, str]]) -> str:
    rewards = row.get("reward_model")
    if isinstance(rewards, dict) and "ground_truth" in rewards:
        value = rewards["ground_truth"]
    else:
        name = next((name for name in ANSWER_COLUMNS if name in row), None)
        if name is None:
            noted.append((f"no reward_model.ground_truth, nor a column {ANSWER_COLUMNS[0]}", _columns(row)))
            return ""
        value = row[name]
    if isinstance(value, list):
        if len(value) > 1:
            noted.append(("the answer is a list of several", repr(value)[:_SNIPPET]))
        value = value[0] if value else None
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        noted.append(("the answer is neither a text nor a number", repr(value)[:_SNIPPET]))
        return ""
    text = "" if value is None else _number(value) if isinstance(value, float) else str(value).strip()
    if not text:
        noted.append(("the answer is empty", ""))
    return text


def _number(value: float) -> str:
    # Tables with a gap turn integers into floats, and the gap into NaN.
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def _columns(row: dict[str, Any]) -> str:
    return f"columns {', '.join(sorted(row))}"[:_SNIPPET]


def _source_index(row: dict[str, Any]) -> str:
    info = row.get("extra_info")
    places = [info if isinstance(info, dict) else {}, row]
    names = ("index", "id", "unique_id", "problem_idx")
    found = (place[name] for place in places for name in names if place.get(name) is not None)
    return str(next(found, ""))


def snippet(text: str) -> str:
    """The beginning of a text, quoted, on one line."""
    short = canonical(text)
    return repr(short if len(short) <= _SNIPPET else f"{short[: _SNIPPET - 1]}…")


def _find_contradictions(problems: Sequence[Problem], faults: Faults) -> None:
    for group in group_by(problems, canonical):
        if len(group) > 1:
            for problem in group:
                what = "the same problem has different answers"
                faults.add(what, Place(problem.row, problem.key, f"{problem.answer!r} to {snippet(problem.text)}"))


def group_by(problems: Sequence[Problem], form: Callable[[str], str]) -> list[list[Problem]]:
    """The problems whose texts have the same form, in order of first appearance."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(form(problem.text), []).append(problem)
    return list(groups.values())


def near_duplicates(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Groups of problems that differ only in case, spacing, punctuation or LaTeX's spacing."""
    return [group for group in group_by(problems, normalised) if len(group) > 1]


def _find_affixes(problems: Sequence[Problem], faults: Faults) -> None:
    # Half of a file's problems do not begin or end alike by chance: that is a template which nobody told us of.
    if len(problems) < _FEW:
        return
    for side, cut in (("begin", slice(None, _AFFIX)), ("end", slice(-_AFFIX, None))):
        counts = Counter(problem.text[cut] for problem in problems if len(problem.text) > 2 * _AFFIX)
        for affix, count in counts.most_common(1):
            if count * 2 >= len(problems):
                faults.add(
                    f"{count} of {len(problems)} problems {side} with {affix!r}: a template that is not known. "
                    "Name it with --baked-in"
                )

"""From the rows of a source to its problems: templates taken off, repetition undone, faults collected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verl_ext.data.faults import Faults, Place
from verl_ext.data.ground_truths import answer_in
from verl_ext.data.templates import Baked, UnknownTemplateError, strip
from verl_ext.data.text import canonical, content_hash, key, normalised

PROBLEM_COLUMNS = ("problem", "question", "Problem", "Question", "query")
SOLUTION_COLUMN = "solution"
ANSWER_COLUMNS = (
    *("answer", "final_answer", "gt_answer", "ground_truth", "expected_answer", "answer_number", "Answer"),
    # Where there is no other: the answer stands in its box, or on its last line.
    *(SOLUTION_COLUMN, "response"),
)
_SNIPPET = 70
_COLUMNS = 300
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
        shapes: of `verl_ext.data.ground_truths` -> how many rows have it, and one of them.
        left_out: rows that the set's own reader leaves out.
        excluded: left out by an exemption, with the reason.
        unused: keys of exemptions that fit no row.
    """

    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    texts: int = 0
    content_sha256: str = ""
    baked: Counter[str] = field(default_factory=Counter)
    shapes: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: int = 0
    excluded: list[tuple[Problem, str]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def repetition(self) -> dict[str, int]:
        """How many problems the source has so many times, by the number of times."""
        counts = Counter(problem.copies for problem in [*self.problems, *(p for p, _ in self.excluded)])
        return {str(copies): counts[copies] for copies in sorted(counts)}

    def draw(self, number: int) -> None:
        """Keep so many problems, those with the smallest keys, in their order: the same whatever the order."""
        chosen = set(sorted(problem.key for problem in self.problems)[:number])
        self.problems = [problem for problem in self.problems if problem.key in chosen]


def collect(
    rows: Iterable[dict[str, Any]],
    faults: Faults,
    exemptions: Sequence[Exemption] = (),
    baked: Sequence[Baked] = (),
    read: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
) -> Collected:
    """Read all rows; what is wrong with them goes to `faults`.

    Args:
        rows: in verl's schema (prompt, reward_model.ground_truth) or with columns named problem and answer, or one of
            the other names in `PROBLEM_COLUMNS` and `ANSWER_COLUMNS`.
        faults: is added to.
        exemptions: rows that are known to be faulty.
        baked: templates to look for beside those that are known.
        read: is applied to each row first, see `verl_ext.data.dataset.Dataset`.

    Example:
        >>> collected = collect([{"problem": "1+1=?", "answer": 2}] * 3, Faults())
        >>> [(p.text, p.answer, p.copies) for p in collected.problems]
        [('1+1=?', '2', 3)]
    """
    reader = _Reader(faults, {exemption.key: exemption for exemption in exemptions}, baked, read)
    for number, row in enumerate(rows):
        reader.add(number, row)
    if not reader.collected.rows:
        faults.add("the source has no rows")
    elif reader.collected.left_out == reader.collected.rows:
        faults.add("the set's reader leaves out every row")
    collected = reader.finish()
    _find_contradictions(collected.problems, faults)
    _find_affixes(collected.problems, faults)
    return collected


class _Reader:
    """Goes through the rows; equal rows are read once, as some sources repeat each a hundred times."""

    def __init__(
        self, faults: Faults, exemptions: dict[str, Exemption], baked: Sequence[Baked], read: Callable[..., Any] | None
    ) -> None:
        self.collected = Collected()
        self._faults = faults
        self._exemptions = exemptions
        self._baked = baked
        self._own = read
        self._known: dict[str, tuple[Problem | None, list[str], str]] = {}
        self._pairs: dict[tuple[str, str], Problem] = {}

    def add(self, number: int, row: dict[str, Any]) -> None:
        self.collected.rows += 1
        plain = row if self._own is None else self._through_own(number, row)
        if plain is None:
            return
        raw = repr([plain.get(name) for name in ("prompt", "reward_model", *PROBLEM_COLUMNS, *ANSWER_COLUMNS)])
        if raw in self._known:
            problem = self._known[raw][0]
            if problem is not None:
                problem.copies += 1
        else:
            self._known[raw] = self._read(number, plain)
        _, layers, shape = self._known[raw]
        self.collected.baked.update(layers)
        if shape:
            self.collected.shapes[shape]["rows"] += 1

    def _through_own(self, number: int, row: dict[str, Any]) -> dict[str, Any] | None:
        assert self._own is not None
        try:
            plain = self._own(row)
        except Exception as error:  # the set's own code
            what = f"the set's reader ends in {type(error).__name__}: {error}"
            self._faults.add(what, Place(number, "", _columns(row)))
            return None
        if plain is None:
            self.collected.left_out += 1
        elif not isinstance(plain, dict):
            what = f"the set's reader returns {type(plain).__name__}, neither a row nor None"
            self._faults.add(what, Place(number, "", _columns(row)))
            return None
        return plain

    def _read(self, number: int, row: dict[str, Any]) -> tuple[Problem | None, list[str], str]:
        noted: list[tuple[str, str]] = []
        text, layers = _text(row, noted, self._baked)
        answer, shape = _answer(row, noted)
        name = key(text, answer)
        exempt = self._exemptions.get(name)
        if noted and (exempt is None or exempt.action != "exclude"):
            for what, seen in noted:
                self._faults.add(what, Place(number, name, seen or snippet(text)))
            return None, layers, ""
        if shape and shape not in self.collected.shapes:
            end = str(ground_truth_of(row))[-_SNIPPET:]
            self.collected.shapes[shape] = {"rows": 0, "example": {"row": number, "end": end, "answer": answer}}
        fresh = Problem(text, answer, name, number, _source_index(row), copies=0, solution=solution_of(row))
        problem = self._pairs.setdefault((canonical(text), canonical(answer)), fresh)
        problem.copies += 1
        return problem, layers, shape

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
    if not isinstance(messages, list | tuple):
        name = next((name for name in (*PROBLEM_COLUMNS, "prompt") if name in row), None)
        if name is None:
            noted.append((f"no column prompt with messages, nor {', '.join(PROBLEM_COLUMNS[:2])}", _columns(row)))
            return "", []
        messages = [{"role": "user", "content": row[name]}]
    if not messages or not all(
        isinstance(m, dict) and isinstance(m.get("content"), str) and isinstance(m.get("role"), str) for m in messages
    ):
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


def ground_truth_of(row: dict[str, Any]) -> Any:
    """The ground truth of a row in verl's schema, else what the first of `ANSWER_COLUMNS` holds that is not empty.

    Raises:
        KeyError: it has neither.
    """
    rewards = row.get("reward_model")
    if isinstance(rewards, str):  # some files hold its JSON
        with suppress(ValueError):
            rewards = json.loads(rewards)
    if isinstance(rewards, dict) and "ground_truth" in rewards:
        return rewards["ground_truth"]
    there = [name for name in ANSWER_COLUMNS if name in row]
    if not there:
        raise KeyError(f"no reward_model.ground_truth, nor a column {ANSWER_COLUMNS[0]}")
    filled = (name for name in there if row[name] is not None and str(row[name]).strip())
    return row[next(filled, there[0])]


def _answer(row: dict[str, Any], noted: list[tuple[str, str]]) -> tuple[str, str]:
    try:
        value = ground_truth_of(row)
    except KeyError as error:
        noted.append((error.args[0], _columns(row)))
        return "", ""
    try:
        answer, shape = answer_in(value)
    except ValueError as error:
        noted.append((str(error), repr(value)[:_SNIPPET]))
        return "", ""
    if not answer:
        noted.append(("the answer is empty" if shape == "text" else f"the answer is empty: {shape}", ""))
    return answer, shape


def _columns(row: dict[str, Any]) -> str:
    return f"columns {', '.join(sorted(map(str, row)))}"[:_COLUMNS]


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
            # What all end with may be the question itself; an instruction is none.
            if count * 2 >= len(problems) and not (side == "end" and affix.endswith(("?", "？"))):
                faults.add(
                    f"{count} of {len(problems)} problems {side} with {affix!r}: a template that is not known. "
                    "Name it with --baked-in"
                )

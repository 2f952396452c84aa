r"""What an answer is: a number, a list, an interval, a matrix, a relation, words. Canonical text in, structure out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from verl_ext.rewards import _units
from verl_ext.rewards._latex import canonical, split, wrapped
from verl_ext.rewards._numbers import literal
from verl_ext.rewards._units import Unit


@dataclass(frozen=True)
class Leaf:
    r"""One amount or word.

    Attributes:
        text: canonical, its unit taken off.
        unit: what was taken off.
        bare: canonical with the unit; empty where there was none to take off.
        word: whether it stood in ``\text{...}``.
    """

    text: str
    unit: Unit | None = None
    bare: str = ""
    word: bool = False


@dataclass(frozen=True)
class Group:
    r"""Several answers.

    `kind`: ``list`` (``1, 2``), ``set`` (``\{1, 2\}``), or the brackets themselves: ``()``, ``[]``, ``(]``, ``[)``.
    """

    kind: str
    items: tuple[Answer, ...]


@dataclass(frozen=True)
class Union:
    r"""Parts joined by ``\cup``."""

    parts: tuple[Answer, ...]


@dataclass(frozen=True)
class Relation:
    """Sides joined by ``=``, ``<`` and so on: one sign fewer than sides."""

    sides: tuple[Answer, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Answer, ...], ...]


Answer = Leaf | Group | Union | Relation | Matrix

_SIGN = re.compile(r"\\(?:le|ge|ne|approx|in|equiv)(?![A-Za-z])|[=<>]")
_MATRIX = re.compile(r"\\begin\s*\{((?:[pbvBV]|small)?matrix|array)\}(?:\{[lcr| ]*\})?(.*?)\\end\s*\{\1\}", re.DOTALL)
_CONDITION = re.compile(r"\\(?:mid|colon)(?![A-Za-z])|\||:")
_WITHOUT = re.compile(r"\\mathbb\s*\{R\}\s*(?:\\setminus|\\backslash|-)\s*\\\{(.*)\\\}")
_DEPTH = 40


def _replace_outside(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Parts and separators where `pattern` matches outside all brackets."""
    depth, start, parts, found = 0, 0, [], []
    matches = {match.start(): match for match in pattern.finditer(text)}
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        match = matches.get(position)
        if match is not None and depth == 0:
            parts.append(text[start:position].strip())
            found.append(match.group())
            start = match.end()
    return [*parts, text[start:].strip()], found


@lru_cache(maxsize=4096)
def readings(text: str) -> tuple[Answer, ...]:
    """All that a text may mean: ``100,200`` is a number and a list."""
    plain = canonical(text)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", plain):
        return Leaf(plain.replace(",", "")), Group("list", tuple(Leaf(part) for part in plain.split(",")))
    return (read(plain),)


def read(text: str, depth: int = 0) -> Answer:
    """The structure of a canonical text."""
    text = text.strip()
    if depth > _DEPTH:
        return Leaf(text)
    if len(parts := [part for part in split(text, ",;") if part]) > 1:
        return _group("list", parts, depth)
    if answer := _relation(text, depth):
        return answer
    if text == "\\mathbb{R}":
        return Group("()", (Leaf("-\\infty"), Leaf("\\infty")))
    if (match := _WITHOUT.fullmatch(text)) and (points := without(split(match.group(1), ",;"))):
        return points
    parts, found = _replace_outside(text, re.compile(r"\\cup(?![A-Za-z])"))
    if found:
        return Union(tuple(read(part, depth + 1) for part in parts))
    if answer := _matrix(text, depth) or _bracketed(text, depth):
        return answer
    if "\\pm" in text or "\\mp" in text:
        return _both_signs(text, depth)
    return _leaf(text, depth)


def without(points: list[str]) -> Union | None:
    r"""The real numbers without some points, as the union of intervals that it is; None if they cannot be ordered."""
    values = [literal(point) for point in points]
    if len(points) > 1:
        if not all(values):
            return None
        order = sorted(range(len(points)), key=lambda index: values[index].value)  # type: ignore[union-attr]
        points = [points[index] for index in order]
    ends = ["-\\infty", *points, "\\infty"]
    return Union(tuple(Group("()", (read(low), read(high))) for low, high in pairwise(ends)))


def _group(kind: str, parts: list[str], depth: int) -> Group:
    items: list[Answer] = []
    for part in parts:
        item = read(part, depth + 1)
        # a \pm b inside a list or a set is two of its members.
        items.extend(item.items if isinstance(item, Group) and item.kind == "list" else [item])
    return Group(kind, tuple(items))


def _relation(text: str, depth: int) -> Answer | None:
    sides, signs = _replace_outside(text, _SIGN)
    if not signs:
        return None
    # "= 5" and "5 =": an empty side says nothing.
    if not sides[0] and len(sides) == 2:
        return read(sides[1], depth + 1)
    if not all(sides):
        return None
    return Relation(tuple(read(side, depth + 1) for side in sides), tuple(signs))


def _matrix(text: str, depth: int) -> Answer | None:
    match = _MATRIX.search(text)
    if match is None:
        return None
    around = (text[: match.start()] + text[match.end() :]).strip()
    if around not in ("", "()", "[]"):
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", match.group(2)) if row.strip()]
    return Matrix(tuple(tuple(read(entry.strip(), depth + 1) for entry in row.split("&")) for row in rows))


def _bracketed(text: str, depth: int) -> Answer | None:
    brackets = wrapped(text)
    if brackets is None:
        return None
    opening, content, closing = brackets
    if not content:
        return None
    if opening == "\\{":
        condition, found = _replace_outside(content, _CONDITION)
        if found:
            return read(condition[-1], depth + 1)
        return _group("set", [part for part in split(content, ",;") if part], depth)
    parts = split(content, ",;")
    if len(parts) == 1 or opening == "{":
        return read(content, depth + 1) if (opening, closing) != ("[", "]") or len(parts) == 1 else None
    return Group(opening + closing, tuple(read(part, depth + 1) for part in parts))


def _both_signs(text: str, depth: int) -> Answer:
    upper = re.sub(r"\\mp(?![A-Za-z])", "-", re.sub(r"\\pm(?![A-Za-z])", "+", text))
    lower = re.sub(r"\\mp(?![A-Za-z])", "+", re.sub(r"\\pm(?![A-Za-z])", "-", text))
    return Group("list", (read(upper, depth + 1), read(lower, depth + 1)))


def _leaf(text: str, depth: int) -> Answer:
    if match := re.fullmatch(r"\\text\s*\{([^{}]*)\}", text):
        inner = match.group(1).strip()
        return read(inner, depth + 1) if re.search(r"\d", inner) else Leaf(inner.strip("() "), word=True)
    amount, unit = _units.take_off(text)
    return Leaf(amount, unit, text)

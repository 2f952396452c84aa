r"""What an answer is: a number, a list, an interval, a matrix, a relation, words. Canonical text in, structure out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from verl_ext.rewards import _units
from verl_ext.rewards._latex import basis, bracket_depths, canonical, has_command, is_readable, split, wrapped
from verl_ext.rewards._units import Unit
from verl_ext.rewards._work import spend


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
class Without:
    r"""``base \setminus \{points\}``."""

    base: Answer
    points: tuple[Answer, ...]


@dataclass(frozen=True)
class Relation:
    """Sides joined by ``=``, ``<`` and so on: one sign fewer than sides."""

    sides: tuple[Answer, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True)
class Residue:
    r"""``value \pmod{modulus}``."""

    value: Answer
    modulus: Answer


@dataclass(frozen=True)
class Domain:
    r"""``value, name \in \mathbb{numbers}``: what a letter of the value runs through; `text` is the value's own."""

    value: Answer
    text: str
    name: str
    numbers: str


@dataclass(frozen=True)
class Choice:
    """``(B) 12``: a letter, and what it stands for."""

    letter: str
    content: Answer


Answer = Leaf | Group | Union | Without | Relation | Matrix | Residue | Domain | Choice
INFINITY, MINUS_INFINITY = Leaf("\\infty"), Leaf("-\\infty")
REALS = Group("()", (MINUS_INFINITY, INFINITY))

_SIGN = re.compile(r"\\(?:le|ge|ne|approx|in|equiv)(?![A-Za-z])|[=<>]")
_MATRIX = re.compile(r"\\begin\s*\{((?:[pbvBV]|small)?matrix|array)\}(?:\{[lcr| ]*\})?(.*?)\\end\s*\{\1\}", re.DOTALL)
_CONDITION = re.compile(r"\\colon(?![A-Za-z])|\||:")
_CUP = re.compile(r"\\cup(?![A-Za-z])")
_SETMINUS = re.compile(r"\\setminus(?![A-Za-z])|(?<=\\mathbb\{R\})\s*-")
_MODULUS = re.compile(r"([^()]*?)\(?\s*\\pmod\{([^{}]*)\}\s*\)?")
_DOMAIN = re.compile(
    r"(?<![A-Za-z\\])([A-Za-z])\s*\\in\s*(?:\\(?:mathbb|text)\{([ZNQR])\}|([ZNQR])(?![A-Za-z]))"
    r"((?:\s*[\^_]\s*(?:\{[^{}]*\}|\\?[A-Za-z]+|[*+]))*)\s*\)?$"
)
_INTEGERS = re.compile(
    r"(?:\\text\s*\{|,)([^{},]*\b(?:integer|natural number|whole number)s?\b[^{},]*)\}?\s*([A-Za-z]?)\s*\)?$"
)
_LABEL = re.compile(
    r"(?:\\text\s*\{\s*)?(?:\(\s*(?:\\text\s*\{)?([A-J])\}?\s*\)|([A-J])\s*[).])"
    r"(?:[\s}.:]*[\s}](?=-)|[\s}.:]*(?![\s^_=<>+*/!',;)}-]))(.+)"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)")
_CHOOSE = re.compile(r"(?<![A-Za-z\\])(?:C|\\text\{C\})\s*_\s*(?:\{([^{}]*)\}|(\w))\s*\^\s*(?:\{([^{}]*)\}|(\w))")
_DEPTH = 40


def split_outside(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Parts and separators where `pattern` matches outside all brackets."""
    depth, start, parts, separators = 0, 0, [], []
    matches = {match.start(): match for match in pattern.finditer(text)}
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        match = matches.get(position)
        if match is not None and depth == 0:
            parts.append(text[start:position].strip())
            separators.append(match.group())
            start = match.end()
    return [*parts, text[start:].strip()], separators


@lru_cache(maxsize=1024)
def readings(text: str) -> tuple[Answer, ...]:
    """All that a text may mean: ``100,200`` is a number and a list, ``C_5^2`` a power and a binomial coefficient."""
    plain = canonical(text)
    others = {_CHOOSE.sub(_binomial, plain), _without_thousands(plain)}
    if "j" in plain and set(re.findall(r"\\?[A-Za-z]+", plain)) <= {"i", "j", "k", "\\frac", "\\sqrt", "\\pi"}:
        others.add(re.sub(r"(?<![A-Za-z\\])([ijk])(?![A-Za-z])", basis, plain))
    return tuple(read(other) for other in (plain, *sorted(others - {plain})))


def _without_thousands(text: str) -> str:
    """1,234 is 1234, but not within brackets, where (1,234) is a point."""
    depths = bracket_depths(text)
    return _THOUSANDS.sub(
        lambda match: match.group() if depths[match.start()] else match.group().replace(",", ""), text
    )


def _binomial(match: re.Match[str]) -> str:
    lower, upper = (match.group(1) or match.group(2)), (match.group(3) or match.group(4))
    if lower.isdecimal() and upper.isdecimal() and int(lower) < int(upper):
        return match.group()
    return f"\\binom{{{lower}}}{{{upper}}}"


def read(text: str, depth: int = 0) -> Answer:
    """The structure of a canonical text."""
    spend()
    text = text.strip()
    if depth > _DEPTH:
        return Leaf(text)
    if answer := _qualified(text, depth):
        return answer
    if len(parts := [part for part in split(text, ",;") if part]) > 1:
        return _group("list", parts, depth)
    if answer := _relation(text, depth):
        return answer
    if text == "\\mathbb{R}":
        return REALS
    parts, separators = split_outside(text, _CUP)
    if separators:
        return Union(tuple(read(part, depth + 1) for part in parts))
    parts, separators = split_outside(text, _SETMINUS)
    if len(parts) == 2 and isinstance(points := read(parts[1], depth + 1), Group) and points.kind == "set":
        return Without(read(parts[0], depth + 1), points.items)
    if answer := _matrix(text, depth) or _bracketed(text, depth):
        return answer
    if has_command(text, "pm", "mp"):
        return _both_signs(text, depth)
    return _leaf(text, depth)


def _qualified(text: str, depth: int) -> Answer | None:
    """What stands with a modulus, with a domain, or with the letter of a choice."""
    if text.count("\\pmod") == 1 and (match := _MODULUS.fullmatch(text)) and match.group(1):
        return Residue(read(match.group(1), depth + 1), read(match.group(2), depth + 1))
    if match := _DOMAIN.search(text):
        name, blackboard, plain, rest = match.groups()
        numbers = (blackboard or plain) + ("+" if rest.strip() else "")
        return _domain(text[: match.start()], name, "Z+" if numbers == "N+" else numbers, depth)
    if match := _INTEGERS.search(text):
        value, words, after = text[: match.start()], *match.groups()
        before = re.search(r"[,;(}]\s*([A-Za-z])\s*$", value)
        inside = re.search(r"(?<![A-Za-z])[b-z](?![A-Za-z])", words)
        name = after or (before.group(1) if before else inside.group() if inside else "")
        return _domain(value[: before.start()] if before else value, name, "Z+" if "positive" in words else "Z", depth)
    if match := _LETTER.fullmatch(text):
        return Leaf(match.group(1), word=True)
    if match := _LABEL.fullmatch(text):
        return Choice(match.group(1) or match.group(2), read(match.group(3), depth + 1))
    return None


def _domain(text: str, name: str, numbers: str, depth: int) -> Domain | None:
    text = re.sub(r"\\text\s*\{[^{}]*\}?\s*$", ", ", text)
    value = text.rstrip(" ,;(")
    if value == text or name not in re.findall(r"\\[A-Za-z]+|[A-Za-z]", value):
        return None
    return Domain(read(value, depth + 1), value, name, numbers)


def renamed(domain: Domain, name: str) -> Answer:
    """The value of a domain with another letter for its own."""
    letter = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
    return read(letter.sub(lambda match: name if match.group() == domain.name else match.group(), domain.text))


def _group(kind: str, parts: list[str], depth: int) -> Group:
    items: list[Answer] = []
    for part in parts:
        item = read(part, depth + 1)
        # a \pm b inside a list or a set is two of its members.
        items.extend(item.items if isinstance(item, Group) and item.kind == "list" else [item])
    return Group(kind, tuple(items))


def _relation(text: str, depth: int) -> Answer | None:
    sides, signs = split_outside(text, _SIGN)
    if not signs:
        return None
    # "= 5" and "5 =": an empty side says nothing.
    if len(sides) == 2 and not all(sides) and signs[0] in ("=", "\\approx", "\\in"):
        return read(sides[0] or sides[1], depth + 1)
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
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])", match.group(2)) if row.strip()]
    return Matrix(tuple(tuple(read(entry.strip(), depth + 1) for entry in row.split("&")) for row in rows))


def _bracketed(text: str, depth: int) -> Answer | None:
    brackets = wrapped(text)
    if brackets is None:
        return None
    opening, content, closing = brackets
    if not content:
        return Leaf("\\emptyset") if opening == "\\{" else None
    if opening == "\\{":
        name, *condition = _CONDITION.split(content, maxsplit=1)
        if name.strip() and condition and _SIGN.search(condition[0]):
            return read(condition[0], depth + 1)
        return _group("set", [part for part in split(content, ",;") if part], depth)
    parts = split(content, ",;")
    if len(parts) == 1 or opening == "{":
        return read(content, depth + 1) if opening + closing in ("()", "[]", "{}") else None
    return Group(opening + closing, tuple(read(part, depth + 1) for part in parts))


def _both_signs(text: str, depth: int) -> Answer:
    signs = re.compile(r"\\(pm|mp)(?![A-Za-z])")
    upper = signs.sub(lambda match: "+" if match.group(1) == "pm" else "-", text)
    lower = signs.sub(lambda match: "-" if match.group(1) == "pm" else "+", text)
    return Group("list", (read(upper, depth + 1), read(lower, depth + 1)))


def _leaf(text: str, depth: int) -> Answer:
    if match := re.fullmatch(r"\\text\s*\{([^{}]*)\}", text):
        inner = match.group(1).strip()
        return read(inner, depth + 1) if re.search(r"\d", inner) else Leaf(inner.strip("() "), word=True)
    amount, unit = _units.take_off(text)
    if not is_readable(amount):
        return Leaf(text, word=True)
    return Leaf(amount, unit, text)


def parts_of(answer: Answer) -> tuple[Answer, ...]:
    """What a structure is made of; nothing for a leaf."""
    if isinstance(answer, Matrix):
        return tuple(entry for row in answer.rows for entry in row)
    if isinstance(answer, Residue):
        return answer.value, answer.modulus
    if isinstance(answer, Without):
        return answer.base, *answer.points
    if isinstance(answer, Domain):
        return (answer.value,)
    if isinstance(answer, Choice):
        return (answer.content,)
    if isinstance(answer, Leaf):
        return ()
    return answer.sides if isinstance(answer, Relation) else answer.parts if isinstance(answer, Union) else answer.items


def bare(leaf: Leaf) -> Leaf:
    """With the unit as part of the amount."""
    return replace(leaf, text=leaf.bare or leaf.text, unit=None)

r"""When two answers are the same. The ground truth stands first: what it leaves out may be left out or added."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

import sympy
from mpmath import mp

from verl_ext.rewards import _values
from verl_ext.rewards._expressions import DERIVATIVE, expression
from verl_ext.rewards._latex import canonical, key
from verl_ext.rewards._leaves import same_leaf
from verl_ext.rewards._numbers import literal
from verl_ext.rewards._reading import (
    INFINITY,
    MINUS_INFINITY,
    REALS,
    Answer,
    Choice,
    Domain,
    Group,
    Leaf,
    Matrix,
    Relation,
    Residue,
    Union,
    Without,
    bare,
    parts_of,
    read,
    renamed,
)
from verl_ext.rewards._sets import number_set, real
from verl_ext.rewards._values import TooLargeError, equal_expressions
from verl_ext.rewards._work import spend

_Item = TypeVar("_Item")
_LETTERS = r"\\?[A-Za-z]+(?:_(?:\w|\{[^{}]*\}))?(?:\^(?:\{-1\}|\{?\\prime\}?|\{\(\w\)\}))*'*"
_DECORATED = rf"\\(?:overline|vec|hat|bar|tilde|overrightarrow|widehat)\{{{_LETTERS}\}}"
_NAME = re.compile(
    rf"{_LETTERS}(?:\([A-Za-z0-9,+-]*\))?|{_DECORATED}|\|(?:[A-Z]{{2,}}(?:_\w|')*|z|{_DECORATED})\||\\angle.*"
    rf"|\\(?:sin|cos|tan|max|min|triangle)(?:\\angle)?{_LETTERS}|\\text\{{[^{{}}]*\}}"
    r"|\([A-Za-z]\\circ[A-Za-z]\)\([A-Za-z]\)|[A-Z]\([^()]*[A-Za-z][^()]*\)|[A-Za-z]+_\{(?:[^{}]|\{[^{}]*\})*\}"
)
_QUANTITY = re.compile(
    r"[A-Z]{2,}|[A-Za-z]_(?:\w|\{\w+\})|[A-Za-z]\(-?\d+\)|\\(?:frac|cdot|times|overline|vec|sqrt)(?![A-Za-z])"
)
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_EQUALS = ("=", "\\approx", "\\equiv")
_BRACKET = {"<": (")", "("), "\\le": ("]", "[")}
_MEMBERS = 60
_DENOMINATOR = 10**9
_ROUNDING = Fraction(1, 10**25)


@dataclass(frozen=True)
class Claim:
    """What is said of a name: one value, or several that say the same (``x = 5\\sqrt{2} \\approx 7.07``)."""

    name: str
    values: tuple[Answer, ...]


def same(truth: Answer, answer: Answer) -> bool:
    """Whether the answer says what the ground truth says."""
    spend()
    if isinstance(truth, Leaf) and isinstance(answer, Leaf):
        return same_leaf(truth, answer)
    for special in (_same_choice, _same_domain, _same_residue):
        verdict = special(truth, answer)
        if verdict is not None:
            return verdict
    if isinstance(truth, Relation) and isinstance(answer, Relation) and _same_relation(truth, answer):
        return True
    first, second = claim(truth), claim(answer)
    if first and second:
        if first.name == second.name:
            return any(same(a, b) for a in first.values for b in second.values)
        return _same_members(truth, answer)
    if (first and _of_other_names(answer, first.name)) or (second and _of_other_names(truth, second.name)):
        return _same_members(truth, answer)
    if first and not isinstance(answer, Relation):
        return any(same(value, answer) for value in first.values) or _same_members(truth, answer)
    if second and not isinstance(truth, Relation):
        return any(same(truth, value) for value in second.values) or _same_members(truth, answer)
    if isinstance(answer, Relation) and not isinstance(truth, Relation):
        return _is_statement(answer) and any(same(truth, value) for value in chain(answer))
    if isinstance(truth, Relation) and not isinstance(answer, Relation):
        return all(map(_is_constant, truth.sides)) and any(same(value, answer) for value in chain(truth))
    truth, answer = _tuple(truth, answer), _tuple(answer, truth)
    if isinstance(truth, Matrix) or isinstance(answer, Matrix):
        return _same_matrix(truth, answer)
    if isinstance(truth, Union | Without) or isinstance(answer, Union | Without):
        return _same_set(truth, answer)
    if isinstance(truth, Group) or isinstance(answer, Group):
        return _same_group(_as_group(truth), _as_group(answer))
    return False


def _same_choice(truth: Answer, answer: Answer) -> bool | None:
    """``(B) 12`` is B; beside another letter, what it stands for does not count."""
    if isinstance(truth, Choice) and isinstance(answer, Choice):
        return truth.letter == answer.letter and same(truth.content, answer.content)
    if not isinstance(truth, Choice) and not isinstance(answer, Choice):
        return None
    choice, other = (truth, answer) if isinstance(truth, Choice) else (answer, truth)
    assert isinstance(choice, Choice)
    if isinstance(other, Leaf) and re.fullmatch("[A-J]", key(other.text).strip("()")):
        return key(other.text).strip("()") == choice.letter
    return same(choice.content, other) if choice is truth else same(other, choice.content)


def _same_domain(truth: Answer, answer: Answer) -> bool | None:
    r"""``k\pi, k\in\mathbb{Z}``: the domain may be left out; where both have one, its letter may be another."""
    if isinstance(truth, Domain) and isinstance(answer, Domain):
        return truth.numbers == answer.numbers and same(truth.value, renamed(answer, truth.name))
    if isinstance(truth, Domain):
        return same(truth.value, answer)
    return same(truth, answer.value) if isinstance(answer, Domain) else None


def _residues(answer: Answer) -> list[tuple[str, Answer, Answer]] | None:
    """Name, value and modulus of each residue; None where something else stands."""
    if isinstance(answer, Group) and answer.kind == "list":
        parts = [_residues(item) for item in answer.items]
        return None if None in parts else [residue for part in parts for residue in part or ()]
    if not isinstance(answer, Residue):
        return None
    values = answer.value.items if isinstance(answer.value, Group) else (answer.value,)
    found, name = [], ""
    for value in values:
        said = claim(value)
        name, value = (said.name, said.values[-1]) if said else (name, value)
        found += [(name, one, answer.modulus) for one in (value.items if isinstance(value, Group) else (value,))]
    return found


def _same_residue(truth: Answer, answer: Answer) -> bool | None:
    r"""``n \equiv 2 \pmod 7`` is ``9 \pmod 7``, and no number."""
    first, second = _residues(truth), _residues(answer)
    if first is None and second is None:
        return None
    return first is not None and second is not None and _paired(first, second, _congruent)


def _congruent(truth: tuple[str, Answer, Answer], answer: tuple[str, Answer, Answer]) -> bool:
    if (truth[0] and answer[0] and truth[0] != answer[0]) or not same(truth[2], answer[2]):
        return False
    first, second, modulus = (real(part) for part in (truth[1], answer[1], truth[2]))
    if first is not None and second is not None and modulus is not None and modulus.is_Integer and modulus != 0:
        return bool((first - second) % modulus == 0)
    return same(truth[1], answer[1])


def _is_name(answer: Answer) -> bool:
    if not isinstance(answer, Leaf) or answer.unit is not None or literal(answer.text):
        return False
    if _is_constant(answer):
        return False
    text = answer.text.replace(" ", "")
    # AB/CD and f(1) + f(2) are values of something; x + y may be a curve.
    rest = _QUANTITY.sub("", text)
    return bool(
        _NAME.fullmatch(text) or DERIVATIVE.fullmatch(text) or (rest != text and not re.search("[A-Za-z]", rest))
    )


def _name(answer: Answer) -> str:
    """As it is compared: ``|AB|`` and ``\\overline{AB}`` are AB."""
    names = answer.items if isinstance(answer, Group) else (answer,)
    if not all(map(_is_name, names)):
        return ""
    return ",".join(re.sub(r"\\overline|[|{}]", "", key(name.text)) for name in names if isinstance(name, Leaf))


def claim(answer: Answer) -> Claim | None:
    r"""What ``x = ...``, ``(x, y) = ...``, ``x \in ...``, ``2x < 3`` and lists of these say of one name."""
    if isinstance(answer, Relation):
        if set(answer.signs) <= {*_EQUALS} and (name := _name(answer.sides[0])):
            rest = Relation(answer.sides[1:], answer.signs[1:])
            return Claim(name, chain(rest, answer.signs[0]))
        if answer.signs == ("=",) and (name := _name(answer.sides[1])):
            return Claim(name, answer.sides[:1])
        if answer.signs == ("\\in",) and (name := _name(answer.sides[0])):
            return Claim(name, answer.sides[1:])
        return _bounds(answer)
    if not isinstance(answer, Group) or answer.kind not in ("list", "set"):
        return None
    claims = [claim(item) for item in answer.items]
    unsaid = any(isinstance(item, Relation) and said is None for item, said in zip(answer.items, claims, strict=True))
    if claims[0] is None or unsaid or len({said.name for said in claims if said}) > 1:
        return None
    values = tuple(
        said.values[0] if said and said.values else item for item, said in zip(answer.items, claims, strict=True)
    )
    return Claim(claims[0].name, (_together(values) or Group(answer.kind, values),))


def _of_other_names(answer: Answer, name: str) -> bool:
    """Whether members of a list or set say something of other names."""
    items = answer.items if isinstance(answer, Group) and answer.kind in ("list", "set") else ()
    return any(said is not None and said.name != name for said in map(claim, items))


def _together(values: tuple[Answer, ...]) -> Answer | None:
    """Several conditions on one name as one set: either of them where they exclude each other, else all of them."""
    if any(isinstance(value, Leaf) for value in values):
        return None
    points = [point for value in values if isinstance(value, Without) and value.base == REALS for point in value.points]
    rest = [value for value in values if not isinstance(value, Without)]
    if points:
        base = REALS if not rest else rest[0] if len(rest) == 1 else None
        return Without(base, tuple(points)) if base else None
    parts = [number_set(value) for value in values]
    if None in parts or not all(isinstance(part, sympy.Interval) for part in parts):
        return None
    shared = sympy.Intersection(*parts)
    if len(values) != 2 or not isinstance(shared, sympy.Interval):
        return Union(values)
    ends = [end for value in values if isinstance(value, Group) for end in value.items]
    ends = [next(end for end in ends if real(end) == wanted) for wanted in shared.args[:2]]
    return Group(("(" if shared.left_open else "[") + (")" if shared.right_open else "]"), tuple(ends))


def _is_constant(answer: Answer) -> bool:
    if not isinstance(answer, Leaf):
        return bool(parts_of(answer)) and all(map(_is_constant, parts_of(answer)))
    expr = None if literal(answer.text) else expression(answer.text)
    return bool(literal(answer.text)) or (expr is not None and not expr.free_symbols)


def _is_statement(relation: Relation) -> bool:
    """Whether a chain without a name says a value: its sides are the same, or it ends in a number, which is not the 0
    of an equation.
    """
    *others, last = relation.sides
    if _is_constant(last):
        return real(last) != 0 or all(map(_is_constant, others))
    return all(same(first, second) for first, second in pairwise(relation.sides))


def chain(relation: Relation, before: str = "=") -> tuple[Answer, ...]:
    r"""What ``2 + 3 = 5`` arrives at: nothing if its numbers differ; with ``\approx``, each of them.

    Args:
        relation: sides joined by signs of equality.
        before: the sign in front of the first side.
    """
    if not set(relation.signs) <= {*_EQUALS}:
        return ()
    signs = (before, *relation.signs)
    constants = [(sign, side) for sign, side in zip(signs, relation.sides, strict=True) if _is_constant(side)]
    for (_, first), (sign, second) in pairwise(constants):
        if not same(first, second) and not (sign == "\\approx" and _rounded(first, second)):
            return ()
    if "\\approx" in relation.signs and _is_constant(relation.sides[-1]):
        return tuple(side for _, side in constants)
    return relation.sides[-1:]


def _rounded(exact: Answer, decimal: Answer) -> bool:
    """Whether a number is another one, rounded or cut at its last place."""
    value, number = real(exact), literal(decimal.text) if isinstance(decimal, Leaf) else None
    if value is None or number is None:
        return False
    place = sympy.Rational(number.place) if number.place else sympy.Integer(1)
    written = sympy.Rational(number.value)
    return bool(abs(value - written) <= place / 2 or (abs(value - written) < place and abs(written) < abs(value)))


def _bounds(relation: Relation) -> Claim | None:
    """An inequality in one name, of degree one, as the set that it means."""
    sides, signs = relation.sides, relation.signs
    if len(signs) == 1 and signs[0] in (*_FLIPPED, "\\ne"):
        for own, other, sign in ((0, 1, signs[0]), (1, 0, _FLIPPED.get(signs[0], signs[0]))):
            if (name := _name(sides[own])) and not _contains(sides[other], name):
                return Claim(name, (_half(sign, sides[other]),))
        solved = _solved(_difference(relation))
        if solved is None:
            return None
        name, slope, rest = solved
        sign = signs[0] if slope > 0 else _FLIPPED.get(signs[0], signs[0])
        return Claim(name, (_half(sign, _leaf(-rest / slope)),))
    if len(signs) != 2 or not (set(signs) <= {"<", "\\le"} or set(signs) <= {">", "\\ge"}):
        return None
    if signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], (_FLIPPED[signs[1]], _FLIPPED[signs[0]])
    low, middle, high = sides
    if not (name := _name(middle)):
        solved = _solved(expression(middle.text)) if isinstance(middle, Leaf) else None
        ends = [expression(side.text) if isinstance(side, Leaf) else None for side in (low, high)]
        if solved is None or None in ends:
            return None
        name, slope, rest = solved
        low, high = (_leaf((end - rest) / slope) for end in ends)
        if slope < 0:
            low, high, signs = high, low, signs[::-1]
    return Claim(name, (Group(_BRACKET[signs[0]][1] + _BRACKET[signs[1]][0], (low, high)),))


def _contains(side: Answer, name: str) -> bool:
    expr = expression(side.text) if isinstance(side, Leaf) else None
    return expr is not None and name in {key(str(symbol)) for symbol in expr.free_symbols}


def _half(sign: str, bound: Answer) -> Answer:
    """What is less than a bound, or more, or anything else."""
    if sign == "\\ne":
        points = bound.items if isinstance(bound, Group) and bound.kind in ("list", "set") else (bound,)
        return Without(REALS, points)
    if sign in (">", "\\ge"):
        return Group(("(" if sign == ">" else "[") + ")", (bound, INFINITY))
    return Group("(" + (")" if sign == "<" else "]"), (MINUS_INFINITY, bound))


def _leaf(expr: sympy.Expr) -> Answer:
    return read(canonical(sympy.latex(sympy.nsimplify(expr, rational=True))))


def _solved(expr: sympy.Expr | None) -> tuple[str, sympy.Expr, sympy.Expr] | None:
    """The only name of an expression of degree one, its factor and the rest."""
    if expr is None or len(expr.free_symbols) != 1:
        return None
    symbol = next(iter(expr.free_symbols))
    zero, one, *others = (_at(expr, {symbol.name: Fraction(place)}) for place in (0, 1, 3, -4))
    if (
        zero is None
        or one is None
        or any(
            height is None or abs(height - zero - place * (one - zero)) > _ROUNDING
            for height, place in zip(others, (3, -4), strict=True)
        )
    ):
        return None
    slope = expr.diff(symbol)
    if slope.free_symbols or not slope.is_real or slope == 0:
        return None
    return key(symbol.name), slope, expr.subs(symbol, 0)


def _same_set(truth: Answer, answer: Answer) -> bool:
    """Unions and differences: as sets of numbers where they are, else part by part."""
    numbers = number_set(truth)
    if numbers is not None and numbers == number_set(answer):
        return True
    if isinstance(truth, Without) and isinstance(answer, Without):
        return same(truth.base, answer.base) and _paired(truth.points, answer.points, same)
    first, second = _parts(truth), _parts(answer)
    return max(len(first), len(second)) > 1 and _paired(first, second, same)


def _parts(answer: Answer) -> tuple[Answer, ...]:
    if isinstance(answer, Union):
        return answer.parts
    return answer.items if isinstance(answer, Group) and answer.kind == "list" else (answer,)


def _tuple(answer: Answer, other: Answer) -> Answer:
    r"""``\mathbf{i} + 2\mathbf{j}`` as the tuple that it is beside another."""
    expr = expression(answer.text) if isinstance(answer, Leaf) and "\\Upsilon" in answer.text else None
    size = (
        len(other.items)
        if isinstance(other, Group)
        else max(_shape(_rows(other) or []))
        if isinstance(other, Matrix)
        else 0
    )
    basis = {key(str(symbol)): symbol for symbol in expr.free_symbols if "Upsilon" in str(symbol)} if expr else {}
    if expr is None or not 2 <= size <= 3 or not set(basis) <= {f"Upsilon_{index + 1}" for index in range(size)}:
        return answer
    zero = dict.fromkeys(basis.values(), 0)
    factors = [
        expr.diff(basis[name]) if (name := f"Upsilon_{index + 1}") in basis else sympy.S(0) for index in range(size)
    ]
    if expr.subs(zero) != 0 or any(factor.free_symbols & set(zero) for factor in factors):
        return answer
    return Group("()", tuple(read(canonical(sympy.latex(factor))) for factor in factors))


def _as_group(answer: Answer) -> Group:
    return answer if isinstance(answer, Group) else Group("one", (answer,))


def _members(answer: Answer) -> list[Answer] | None:
    """``x = 1, y = 2``, and ``(x, y) = (1, 2)`` as such a list."""
    if isinstance(answer, Relation) and answer.signs == ("=",):
        left, right = answer.sides
        if isinstance(left, Group) and isinstance(right, Group) and len(left.items) == len(right.items):
            return [Relation(pair, ("=",)) for pair in zip(left.items, right.items, strict=True)]
    return list(answer.items) if isinstance(answer, Group) and answer.kind == "list" else None


def _same_members(truth: Answer, answer: Answer) -> bool:
    first, second = _members(truth), _members(answer)
    if first is None or second is None or (isinstance(truth, Group) and isinstance(answer, Group)):
        return False
    return _same_group(Group("list", tuple(first)), Group("list", tuple(second)))


def _same_group(truth: Group, answer: Group) -> bool:
    kinds = {truth.kind, answer.kind}
    if "one" in kinds:
        # A set or a list with a single member is that member.
        return kinds <= {"one", "set", "list"} and _paired(truth.items, answer.items, same)
    if kinds == {"set"}:
        return all(any(same(a, b) for b in answer.items) for a in truth.items) and all(
            any(same(a, b) for a in truth.items) for b in answer.items
        )
    ordered = len(truth.items) == len(answer.items) and all(
        same(a, b) for a, b in zip(truth.items, answer.items, strict=True)
    )
    names = {said.name if (said := claim(item)) else "" for item in truth.items}
    if len(names) > 1 and not any(map(claim, answer.items)):
        # a = 1, b = 2 without its names is told by the order.
        return ordered
    if kinds <= {"set", "list"}:
        return _paired(truth.items, answer.items, same)
    if "set" in kinds:
        return False
    if "list" in kinds:
        return ordered and kinds <= {"list", "()", "[]"}
    # With three entries and more brackets are a matter of taste; with two they are the ends of an interval.
    return ordered and (len(kinds) == 1 or (len(truth.items) > 2 and kinds <= {"()", "[]"}))


def _paired(truths: Sequence[_Item], answers: Sequence[_Item], equal: Callable[[_Item, _Item], bool]) -> bool:
    """Whether each of one side can be paired with one of the other, in any order."""
    if len(truths) != len(answers) or len(truths) > _MEMBERS:
        return False
    # Equality is as good as transitive, so that the first partner found is as good as any.
    left = list(answers)
    for item in truths:
        partner = next((index for index, other in enumerate(left) if equal(item, other)), None)
        if partner is None:
            return False
        del left[partner]
    return True


def _same_matrix(truth: Answer, answer: Answer) -> bool:
    rows, others = _rows(truth), _rows(answer)
    if rows is None or others is None:
        return False
    if isinstance(truth, Group) or isinstance(answer, Group):
        # A vector may be written as a tuple, whichever way it stands.
        if 1 not in _shape(rows) or 1 not in _shape(others):
            return False
        rows, others = ([[entry for row in side for entry in row]] for side in (rows, others))
    return _shape(rows) == _shape(others) and all(
        same(a, b) for row, other in zip(rows, others, strict=True) for a, b in zip(row, other, strict=True)
    )


def _rows(answer: Answer) -> list[list[Answer]] | None:
    if isinstance(answer, Matrix):
        return [list(row) for row in answer.rows]
    if isinstance(answer, Group) and answer.kind in ("()", "[]"):
        return [list(answer.items)]
    return None


def _shape(rows: list[list[Answer]]) -> tuple[int, ...]:
    return (len(rows), *{len(row) for row in rows})


def _same_relation(truth: Relation, answer: Relation) -> bool:
    if truth.signs == answer.signs and all(same(a, b) for a, b in zip(truth.sides, answer.sides, strict=True)):
        return True
    if len(truth.signs) != 1 or len(answer.signs) != 1:
        return False
    first, second = _difference(truth), _difference(answer)
    if first is None or second is None:
        return False
    factor = _ratio(first, second)
    if factor is None:
        return False
    sign = answer.signs[0] if factor > 0 else _FLIPPED.get(answer.signs[0], answer.signs[0])
    return truth.signs[0] == sign or {truth.signs[0], sign} <= {*_EQUALS}


def _difference(relation: Relation) -> sympy.Expr | None:
    left, right = relation.sides
    if not isinstance(left, Leaf) or not isinstance(right, Leaf):
        return None
    first, second = expression(bare(left).text), expression(bare(right).text)
    return None if first is None or second is None else first - second


def _ratio(first: sympy.Expr, second: sympy.Expr) -> sympy.Expr | None:
    """The constant c with first = c second, None if there is none."""
    names = sorted(symbol.name for symbol in first.free_symbols | second.free_symbols)
    point = {name: Fraction(7 * index + 11, index + 5) for index, name in enumerate(names)}
    dividend, divisor = _at(first, point), _at(second, point)
    if not dividend or not divisor:
        return None
    found = dividend / divisor
    factor = found.limit_denominator(_DENOMINATOR)
    if abs(found - factor) > _ROUNDING or factor == 0:
        return None
    exact = sympy.Rational(factor)
    return exact if equal_expressions(first, exact * second) else None


def _at(expr: sympy.Expr, point: dict[str, Fraction]) -> Fraction | None:
    """A real value; None where there is none, or one that is too large."""
    try:
        found = _values.value(expr, point)
    except TooLargeError:
        return None
    if isinstance(found, Fraction):
        return found
    return Fraction(mp.nstr(found, 40)) if isinstance(found, mp.mpf) and mp.isfinite(found) else None

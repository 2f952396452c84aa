r"""When two answers are the same. The ground truth stands first: what it leaves out may be left out or added."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sympy

from verl_ext.rewards._expressions import DERIVATIVE, expression
from verl_ext.rewards._latex import key
from verl_ext.rewards._leaves import same_leaf
from verl_ext.rewards._reading import Answer, Group, Leaf, Matrix, Relation, Union, without
from verl_ext.rewards._values import equal_expressions

_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?'*(?:\([A-Za-z0-9, ]*\))?|\\angle.*|\\text\{[^{}]*\}")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_EQUALS = ("=", "\\approx", "\\equiv")
_MEMBERS = 60


def same(truth: Answer, answer: Answer) -> bool:
    """Whether the answer says what the ground truth says."""
    truth, answer = _without_names(truth, answer)
    if isinstance(truth, Leaf) and isinstance(answer, Leaf):
        return same_leaf(truth, answer)
    if isinstance(truth, Matrix) or isinstance(answer, Matrix):
        return _same_matrix(truth, answer)
    first, second = _as_interval(truth), _as_interval(answer)
    if isinstance(first, Relation) and isinstance(second, Relation):
        return _same_relation(first, second)
    if isinstance(first, Union) or isinstance(second, Union):
        return _matched(_parts(first), _parts(second))
    if isinstance(first, Group) or isinstance(second, Group):
        return _same_group(_as_group(first), _as_group(second))
    return False


def _parts(answer: Answer) -> tuple[Answer, ...]:
    """Of a union; ``x < 2 or x > 3`` is one too."""
    if isinstance(answer, Union):
        return answer.parts
    return answer.items if isinstance(answer, Group) and answer.kind == "list" else (answer,)


def _as_group(answer: Answer) -> Group:
    return answer if isinstance(answer, Group) else Group("one", (answer,))


def _same_group(truth: Group, answer: Group) -> bool:
    kinds = {truth.kind, answer.kind}
    if "one" in kinds:
        # A set or a list with a single member is that member.
        return kinds <= {"one", "set", "list"} and _matched(truth.items, answer.items)
    if kinds == {"set"}:
        return all(any(same(a, b) for b in answer.items) for a in truth.items) and all(
            any(same(a, b) for a in truth.items) for b in answer.items
        )
    if kinds <= {"set", "list"}:
        return _matched(truth.items, answer.items)
    ordered = len(truth.items) == len(answer.items) and all(
        same(a, b) for a, b in zip(truth.items, answer.items, strict=True)
    )
    if "set" in kinds:
        return False
    if "list" in kinds:
        return ordered and kinds <= {"list", "()", "[]"}
    # With three entries and more brackets are a matter of taste; with two they are the ends of an interval.
    return ordered and (len(kinds) == 1 or (len(truth.items) > 2 and kinds <= {"()", "[]"}))


def _matched(truths: Sequence[Answer], answers: Sequence[Answer]) -> bool:
    """Whether each of one side can be paired with one of the other, in any order."""
    if len(truths) != len(answers) or len(truths) > _MEMBERS:
        return False
    # Equality is as good as transitive, so that the first partner found is as good as any.
    left = list(answers)
    for item in truths:
        partner = next((index for index, other in enumerate(left) if same(item, other)), None)
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
        rows, others = ([[entry for row in side for entry in row]] for side in (rows, others) if 1 in _shape(side))
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


def _is_name(answer: Answer) -> bool:
    if not isinstance(answer, Leaf) or answer.unit is not None:
        return False
    return any(pattern.fullmatch(answer.text.replace(" ", "")) for pattern in (_NAME, DERIVATIVE))


def _without_names(truth: Answer, answer: Answer) -> tuple[Answer, Answer]:
    """Both without the ``x =`` in front where only one has it, or both have the same."""
    first, second = _assigned(truth), _assigned(answer)
    if first and second:
        if key(first[0]) == key(second[0]):
            return first[1], second[1]
        return truth, answer
    if first and not isinstance(answer, Relation):
        return _without_names(first[1], answer)
    if second and not isinstance(truth, Relation):
        return truth, second[1]
    if isinstance(answer, Relation) and not isinstance(truth, (Relation, Union)) and set(answer.signs) <= {*_EQUALS}:
        # 2 + 3 = 5: the last side is what the chain arrives at.
        return truth, answer.sides[-1]
    return _list_after_name(truth), _list_after_name(answer)


def _assigned(answer: Answer) -> tuple[str, Answer] | None:
    """The name and the value of ``x = ...``, ``(x, y) = ...`` and ``x \\in ...``."""
    if not isinstance(answer, Relation):
        return None
    named = answer.sides[0]
    names = named.items if isinstance(named, Group) else (named,)
    if all(map(_is_name, names)) and (set(answer.signs) <= {*_EQUALS} or answer.signs == ("\\in",)):
        return ",".join(name.text for name in names if isinstance(name, Leaf)), answer.sides[-1]
    return None


def _list_after_name(answer: Answer) -> Answer:
    """``x = 1, 2`` and ``x = 1, x = 2`` are ``1, 2``; ``x = 1, y = 2`` stays as it is."""
    if not isinstance(answer, Group) or answer.kind not in ("list", "set"):
        return answer
    members = [(item, _assigned(item)) for item in answer.items]
    names = {key(named[0]) for _, named in members if named is not None}
    unnamed = any(isinstance(item, Relation) and named is None for item, named in members)
    if members[0][1] is None or len(names) > 1 or unnamed:
        return answer
    return Group(answer.kind, tuple(item if named is None else named[1] for item, named in members))


def _as_interval(answer: Answer) -> Answer:
    """A relation that bounds one name, as the interval that it means."""
    if not isinstance(answer, Relation):
        return answer
    sides, signs = answer.sides, answer.signs
    if signs == ("\\ne",) and _is_name(sides[0]) and isinstance(sides[1], Leaf):
        return without([sides[1].text]) or answer
    if len(signs) == 1 and signs[0] in _FLIPPED:
        if _is_name(sides[1]) and not _is_name(sides[0]):
            sides, signs = (sides[1], sides[0]), (_FLIPPED[signs[0]],)
        if not _is_name(sides[0]):
            return answer
        infinity = Leaf("\\infty")
        if signs[0] in (">", "\\ge"):
            return Group(("(" if signs[0] == ">" else "[") + ")", (sides[1], infinity))
        return Group("(" + (")" if signs[0] == "<" else "]"), (Leaf("-\\infty"), sides[1]))
    if len(signs) == 2 and _is_name(sides[1]) and (set(signs) <= {"<", "\\le"} or set(signs) <= {">", "\\ge"}):
        if signs[0] in (">", "\\ge"):
            sides, signs = sides[::-1], (_FLIPPED[signs[1]], _FLIPPED[signs[0]])
        kind = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
        return Group(kind, (sides[0], sides[2]))
    return answer


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
    first, second = expression(left.bare or left.text), expression(right.bare or right.text)
    return None if first is None or second is None else first - second


def _ratio(first: sympy.Expr, second: sympy.Expr) -> sympy.Expr | None:
    """The constant c with first = c second, None if there is none."""
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    point = {name: sympy.Rational(7 * index + 11, index + 5) for index, name in enumerate(names)}
    divisor = second.xreplace(point).evalf(40)
    if not divisor.is_real or abs(divisor) < 1e-25:
        return None
    factor = first.xreplace(point).evalf(40) / divisor
    if not factor.is_real or factor == 0:
        return None
    exact = sympy.nsimplify(factor, rational=True, tolerance=1e-25)
    return factor if equal_expressions(first, exact * second) else None

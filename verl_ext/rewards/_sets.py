"""Sets of real numbers as sympy has them, which are the same however they are written."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import sympy
from mpmath import mp

from verl_ext.rewards._expressions import expression
from verl_ext.rewards._numbers import literal
from verl_ext.rewards._reading import INFINITY, MINUS_INFINITY, Answer, Group, Leaf, Union, Without
from verl_ext.rewards._values import TooLargeError, value

_BRACKETS = ("()", "[]", "(]", "[)")
_PARTS = 20
"""Of more parts no set is made: they are compared one by one."""


def real(answer: Answer) -> Any:
    """The value of a number to 30 digits, as a fraction, or an infinity; None if it is something else."""
    if not isinstance(answer, Leaf):
        return None
    text = answer.text.replace(" ", "").lstrip("+")
    if text in (INFINITY.text, MINUS_INFINITY.text):
        return sympy.oo if text == INFINITY.text else -sympy.oo
    if number := literal(answer.text):
        return sympy.Rational(number.value)
    expr = expression(answer.text)
    if expr is None or expr.free_symbols:
        return None
    try:
        found = value(expr)
    except TooLargeError:
        return None
    if isinstance(found, Fraction):
        return sympy.Rational(found)
    return sympy.Rational(mp.nstr(found, 30)) if isinstance(found, mp.mpf) and mp.isfinite(found) else None


def number_set(answer: Answer) -> sympy.Set | None:
    """The set that an answer is; None if it is none, or if it has letters in it."""
    if isinstance(answer, Union) and len(answer.parts) <= _PARTS:
        parts = [number_set(part) for part in answer.parts]
        return None if None in parts else sympy.Union(*parts)
    if isinstance(answer, Without):
        base, points = number_set(answer.base), number_set(Group("set", answer.points))
        return None if base is None or points is None else sympy.Complement(base, points)
    if not isinstance(answer, Group) or len(answer.items) > _PARTS:
        return None
    values = [real(item) for item in answer.items]
    if None in values:
        return None
    if answer.kind == "set":
        return sympy.FiniteSet(*values)
    if answer.kind in _BRACKETS and len(values) == 2 and values[0] < values[1]:
        return sympy.Interval(*values, answer.kind[0] == "(", answer.kind[1] == ")")
    return None

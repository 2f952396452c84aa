"""When two expressions have the same value: constants to 30 digits, others at points drawn once and for all."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import sympy

from verl_ext.rewards._numbers import TRUTH_DIGITS, Literal


def _points(names: list[str], steps: bool, signed: bool) -> list[dict[Any, Any]]:
    # Drawn from the names alone: the same pair is judged the same way for ever.
    draw = random.Random("|".join(names))
    points = []
    for index in range(8 if steps or signed else 4):
        sign = -1 if signed and index % 2 else 1
        values = [
            sympy.Integer(sign * draw.randint(2, 25 + 6 * index))
            if steps
            else sympy.Rational(sign * draw.randint(2_000, 30_000), 10_007)
            for _ in names
        ]
        points.append(dict(zip(names, values, strict=True)))
    return points


_STEPS = (sympy.floor, sympy.ceiling, sympy.Sum, sympy.Product, sympy.factorial, sympy.binomial, sympy.Mod)


def _value(expr: Any, point: dict[Any, Any]) -> Any:
    result = expr.xreplace({symbol: point[str(symbol)] for symbol in expr.free_symbols})
    if result.has(sympy.Sum, sympy.Product, sympy.Integral):
        result = result.doit()
    return result.evalf(40)


def _close(first: Any, second: Any, tolerance: float) -> bool:
    if not (first.is_number and second.is_number):
        return bool(first == second)
    if first in (sympy.oo, -sympy.oo) or second in (sympy.oo, -sympy.oo):
        return bool(first == second)
    if first.has(sympy.nan, sympy.zoo) or second.has(sympy.nan, sympy.zoo):
        return False
    size = max(abs(first), abs(second))
    return bool(abs(first - second) <= tolerance * size) or bool(size < 1e-35)


def equal_expressions(truth: Any, answer: Any) -> bool:
    """Whether two expressions have the same value wherever their variables lead.

    Steps (floor, factorials, sums) are compared at whole numbers, others at fractions; negative values take part
    where an absolute value stands.
    """
    if truth == answer:
        return True
    names = sorted({str(symbol) for expr in (truth, answer) for symbol in expr.free_symbols})
    steps = truth.has(*_STEPS) or answer.has(*_STEPS)
    signed = truth.has(sympy.Abs) or answer.has(sympy.Abs)
    decimal = truth.has(sympy.Float) or answer.has(sympy.Float)
    tolerance = 1e-9 if decimal else 1e-30
    if not names:
        first, second = truth.doit(), answer.doit()
        if first.is_Rational and second.is_Rational and not decimal:
            return bool(first == second)
    points = _points(names, steps, signed) if names else [{}]
    return all(_close(_value(truth, point), _value(answer, point), tolerance) for point in points)


def equal_number_expression(number: Literal, expr: Any, number_is_truth: bool) -> bool:
    """Whether a number that is written out is the value of an expression, or its rounded form."""
    if number.place is None or expr.free_symbols:
        return equal_expressions(sympy.Rational(number.value.numerator, number.value.denominator), expr)
    value = _value(expr, {})
    if not value.is_real or not value.is_finite or not math.isfinite(float(value)):
        return False
    exact = Fraction(str(value))
    if abs(exact - number.value) <= abs(number.value) / 10**25:
        return True
    return number.stands_for(exact) or (number_is_truth and number.digits >= TRUTH_DIGITS and number.rounds_from(exact))

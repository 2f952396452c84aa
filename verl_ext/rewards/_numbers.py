r"""Numbers and expressions: when two of them are the same.

Literals are exact fractions. Other expressions are read by math-verify's LaTeX parser and compared by their values:
constants to 30 digits, expressions with variables at points drawn once and for all.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from sympy.core.function import AppliedUndef

from verl_ext.rewards._latex import wrapped

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_TIMES_TEN = r"(?:\\times|\\cdot|x|×)\s*10\s*\^\s*(?:\{\s*([+-]?\s*\d+)\s*\}|([+-]?\d+))"
_LITERAL = re.compile(rf"({_DECIMAL})\s*(?:[eE]\s*\{{?([+-]?\d+)\}}?|{_TIMES_TEN})?")
_POWER_OF_TEN = re.compile(r"10\s*\^\s*(?:\{\s*([+-]?\s*\d+)\s*\}|(\d))")
_FRACTION = re.compile(r"\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}|(\d+)\s*/\s*(\d+)")
_MIXED = re.compile(r"(\d+)\s*(?:\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s(\d+)\s*/\s*(\d+))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\s?\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?:\.\d+)?")
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])"
_SIMPLE_CALL = re.compile(
    rf"({_TRIGONOMETRIC}(?:\^(?:\{{\d+\}}|\d))?\s*\d*\s*(?:\\[a-z]+(?![A-Za-z])|[a-z])(?:_(?:\w|\{{\w+\}}))?)"
    rf"(?=\s*(?:\\cdot|\([^()]{{2,}}\)|{_TRIGONOMETRIC}))"
)
DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*d\s*(?:\^\{?\d\}?)?\s*((?:\\[a-z]+\s*)?[A-Za-z]?(?:_\{?\w+\}?)?)\s*\}"
    r"\s*\{\s*d\s*(?:\\[a-z]+|[A-Za-z])\s*(?:\^\{?\d\}?)?\s*\}"
)
_LARGEST_EXPONENT = 5000
_SAFE_DIGITS = 6
"""A decimal with this many significant digits may stand for the value that it is rounded or cut from."""
_TRUTH_DIGITS = 4
"""A decimal ground truth with this many significant digits may be the rounded value of a longer answer."""


@dataclass(frozen=True)
class Literal:
    """A number written out.

    Attributes:
        value: exactly what is written.
        place: the value of one unit in the last written place where it is written as a decimal, else None.
        digits: its significant digits.
    """

    value: Fraction
    place: Fraction | None = None
    digits: int = 0

    def rounds_from(self, exact: Fraction) -> bool:
        """Whether `exact`, rounded at the last place, is this."""
        return self.place is not None and abs(self.value - exact) <= self.place / 2

    def stands_for(self, exact: Fraction) -> bool:
        """Whether `exact`, rounded or cut at the last place, is this, and the places are enough."""
        return self.place is not None and self.digits >= _SAFE_DIGITS and abs(self.value - exact) < self.place


def _decimal(match: re.Match[str]) -> Literal | None:
    mantissa = match.group(1)
    written = next((group for group in match.groups()[1:] if group is not None), None)
    exponent = int((written or "0").replace(" ", ""))
    if abs(exponent) > _LARGEST_EXPONENT:
        return None
    places = len(mantissa.partition(".")[2])
    value = Fraction(mantissa) * Fraction(10) ** exponent
    if written is None and "." not in mantissa:
        return Literal(value)
    digits = len(mantissa.replace(".", "").lstrip("0"))
    return Literal(value, Fraction(10) ** (exponent - places), digits)


@lru_cache(maxsize=4096)
def literal(text: str) -> Literal | None:
    r"""The number that a canonical text writes out, None if it is something else.

    Example:
        >>> literal(r"1\frac{4}{5}").value, literal(r"4.5 \times 10^{33}").value == literal("4.5e33").value
        (Fraction(9, 5), True)
    """
    text = text.strip()
    while (parts := wrapped(text)) is not None and parts[0] in "({":
        text = parts[1]
    sign = -1 if text.startswith("-") else 1
    text = text[1:].strip() if text[:1] in ("-", "+") else text
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"[, ]", "", text)
    number = _unsigned(text)
    return None if number is None else Literal(sign * number.value, number.place, number.digits)


def _unsigned(text: str) -> Literal | None:
    if match := _LITERAL.fullmatch(text):
        return _decimal(match)
    if match := _POWER_OF_TEN.fullmatch(text):
        exponent = int((match.group(1) or match.group(2)).replace(" ", ""))
        return Literal(Fraction(10) ** exponent) if abs(exponent) <= _LARGEST_EXPONENT else None
    if match := _FRACTION.fullmatch(text):
        top, bottom = (int(group) for group in match.groups() if group is not None)
        return Literal(Fraction(top, bottom)) if bottom else None
    if match := _MIXED.fullmatch(text):
        whole, top, bottom = (int(group) for group in match.groups() if group is not None)
        return Literal(whole + Fraction(top, bottom)) if bottom else None
    if match := _REPEATING.fullmatch(text):
        integer, head, cycle = match.groups()
        scale = 10 ** len(head)
        return Literal(
            Fraction(int(integer + head or "0"), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
        )
    return None


def _plain_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _readable(text: str) -> str:
    """A canonical text as the parser wants it."""
    # The parser takes \gamma for a function, E and I for constants, and knows no names of more than one part.
    text = re.sub(r"(?<=\d)\s*[eE]\s*([+-]?\d+)(?!\w)", r" \\cdot 10^{\1}", text)
    text = DERIVATIVE.sub(lambda match: f" D_{{{_plain_name(match.group())}}} ", text)
    text = re.sub(r"\\gamma(?![A-Za-z])", r" g_{gamma}", text)
    text = re.sub(r"\\text\s*\{\s*(\w+)\s*\}", r"\1", text)
    text = re.sub(r"_\s*\\([A-Za-z]+)", r"_{\1}", text)
    text = re.sub(r"(?<!_\{)(?<![A-Za-z\\_])([EI])(?:_(?:\{(\w+)\}|(\w)))?(?![A-Za-z])", r" Q_{\1\2\3}", text)
    # The argument of \sin\theta (a + b) and \sin x \cdot y ends where people end it.
    text = _SIMPLE_CALL.sub(r"(\1)", text)
    if re.search(_TRIGONOMETRIC, text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\{\\circ\}", r"(\1 \\cdot \\pi/180)", text)
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


@lru_cache(maxsize=4096)
def expression(text: str) -> Any:
    """The sympy expression of a canonical text, None if math-verify's parser cannot read it as one."""
    try:
        parsed = latex2sympy(
            _readable(text), normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # The parser has no exception class of its own: whatever it raises means that it cannot read this.
        return None
    if not isinstance(parsed, sympy.Expr) or isinstance(parsed, sympy.MatrixBase) or parsed.has(sympy.nan, sympy.zoo):
        return None
    parsed = parsed.xreplace({symbol: sympy.I for symbol in parsed.free_symbols if str(symbol) == "i"})
    opaque = parsed.atoms(AppliedUndef, sympy.Derivative)
    return parsed.xreplace({part: sympy.Symbol(f"[{part}]") for part in sorted(opaque, key=str, reverse=True)})


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


def equal_numbers(truth: Literal, answer: Literal) -> bool:
    """Whether two numbers that are written out are the same, or one the rounded form of the other."""
    if truth.value == answer.value:
        return True
    rounded = truth.digits >= _TRUTH_DIGITS and answer.digits > truth.digits and truth.rounds_from(answer.value)
    return rounded or answer.stands_for(truth.value) or (answer.place is None and truth.stands_for(answer.value))


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
    return number.stands_for(exact) or (
        number_is_truth and number.digits >= _TRUTH_DIGITS and number.rounds_from(exact)
    )

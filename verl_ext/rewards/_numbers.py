"""Numbers that are written out, as exact fractions, and when two of them are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from verl_ext.rewards._latex import wrapped

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_TIMES_TEN = r"(?:\\times|\\cdot|x|×)\s*10\s*\^\s*(?:\{\s*([+-]?\s*\d+)\s*\}|([+-]?\d+))"
_LITERAL = re.compile(rf"({_DECIMAL})\s*(?:[eE]\s*\{{?([+-]?\d+)\}}?|{_TIMES_TEN})?")
_POWER_OF_TEN = re.compile(r"10\s*\^\s*(?:\{\s*([+-]?\s*\d+)\s*\}|(\d))")
_FRACTION = re.compile(r"\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}|(\d+)\s*/\s*(\d+)")
_MIXED = re.compile(r"(\d+)\s*(?:\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s(\d+)\s*/\s*(\d+))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_THOUSANDS = re.compile(r"\d{1,3}(?: \d{3})+(?:\.\d+)?")
_LARGEST_EXPONENT = 5000
_SAFE_DIGITS = 6
"""A decimal with this many significant digits may stand for the value that it is rounded or cut from."""
TRUTH_DIGITS = 4
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
        text = text.replace(" ", "")
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


def equal_numbers(truth: Literal, answer: Literal) -> bool:
    """Whether two numbers that are written out are the same, or one the rounded form of the other."""
    if truth.value == answer.value:
        return True
    rounded = truth.digits >= TRUTH_DIGITS and answer.digits > truth.digits and truth.rounds_from(answer.value)
    return rounded or answer.stands_for(truth.value) or (answer.place is None and truth.stands_for(answer.value))

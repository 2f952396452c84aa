r"""Units of answers: taken off the end of an amount, and compared with one another.

A unit is a factor and a dimension. Units that are not in the table are words, equal if they are the same word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

Dimension = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """`factor` times the base unit of `dimension`. Degrees are a unit of their own; ``None`` factors do not occur."""

    factor: Fraction
    dimension: Dimension

    def matches(self, other: Unit) -> bool:
        return self.dimension == other.dimension


_SIMPLE: dict[str, tuple[str, str]] = {
    # name: (factor, dimension)
    **dict.fromkeys(["m", "meter", "metre"], ("1", "length")),
    **dict.fromkeys(["km", "kilometer", "kilometre"], ("1000", "length")),
    **dict.fromkeys(["cm", "centimeter", "centimetre"], ("1/100", "length")),
    **dict.fromkeys(["mm", "millimeter", "millimetre"], ("1/1000", "length")),
    **dict.fromkeys(["nm", "nanometer"], ("1/1000000000", "length")),
    **dict.fromkeys(["inch", "in"], ("127/5000", "length")),
    **dict.fromkeys(["foot", "feet", "ft"], ("381/1250", "length")),
    **dict.fromkeys(["yard", "yd"], ("1143/1250", "length")),
    **dict.fromkeys(["mile", "mi"], ("201168/125", "length")),
    **dict.fromkeys(["g", "gram"], ("1/1000", "mass")),
    **dict.fromkeys(["kg", "kilogram"], ("1", "mass")),
    **dict.fromkeys(["mg", "milligram"], ("1/1000000", "mass")),
    **dict.fromkeys(["s", "sec", "second"], ("1", "time")),
    **dict.fromkeys(["ms", "millisecond"], ("1/1000", "time")),
    **dict.fromkeys(["min", "minute"], ("60", "time")),
    **dict.fromkeys(["h", "hr", "hour"], ("3600", "time")),
    **dict.fromkeys(["day"], ("86400", "time")),
    **dict.fromkeys(["week"], ("604800", "time")),
    **dict.fromkeys(["dollar", "usd"], ("1", "dollar")),
    **dict.fromkeys(["cent", "penny", "pennies"], ("1/100", "dollar")),
    **dict.fromkeys(["l", "liter", "litre"], ("1", "litre")),
    **dict.fromkeys(["ml", "milliliter", "millilitre"], ("1/1000", "litre")),
    **dict.fromkeys(["degree", "deg"], ("1", "degree")),
    **dict.fromkeys(["rad", "radian"], ("1", "radian")),
    **dict.fromkeys(["percent", "percentage", "pct"], ("1", "percent")),
    **dict.fromkeys(["n", "newton"], ("1", "newton")),
    **dict.fromkeys(["j", "joule"], ("1", "joule")),
    **dict.fromkeys(["kj", "kilojoule"], ("1000", "joule")),
    **dict.fromkeys(["ev"], ("1", "electronvolt")),
    **dict.fromkeys(["w", "watt"], ("1", "watt")),
    **dict.fromkeys(["kw", "kilowatt"], ("1000", "watt")),
    **dict.fromkeys(["hz", "hertz"], ("1", "hertz")),
    **dict.fromkeys(["k", "kelvin"], ("1", "kelvin")),
    **dict.fromkeys(["mph"], ("1397/3125", "speed")),
}
_NEUTRAL = frozenset(["unit", "square", "cubic", "sq", "total", "way", "number", ""])
PERCENT = Unit(Fraction(1), (("percent", 1),))
DEGREE = Unit(Fraction(1), (("degree", 1),))
RADIAN = Unit(Fraction(1), (("radian", 1),))
DOLLAR = Unit(Fraction(1), (("dollar", 1),))

_CALL = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])[^\\]*\^\{\\circ\}")  # its degrees are no unit
_TEXT = re.compile(r"\s*\\text\s*\{\s*([^{}]*[A-Za-z][^{}]*)\}\s*((?:\^\s*\{?\s*-?\d\s*\}?)?)\s*$")
_PLAIN = re.compile(r"(?<=[\d})])\s*((?:[A-Za-z]{2,}\.?)(?:[ /][A-Za-z]+)*)\s*((?:\^\s*\{?\s*-?\d\s*\}?)?)$")
_NUMBER = re.compile(r"-?\s*(?:\\frac\{-?\d+\}\{\d+\}|[\d.,\s/e+-]*\d)(?:\s*\\frac\{\d+\}\{\d+\})?\s*$")


def _word(word: str) -> tuple[Fraction, dict[str, int]]:
    word = word.strip(" .").lower()
    for name in (word, word.removesuffix("s"), word.removesuffix("es")):
        if name in _SIMPLE:
            factor, dimension = _SIMPLE[name]
            return Fraction(factor), {dimension: 1}
        if name in _NEUTRAL:
            return Fraction(1), {}
    return Fraction(1), {word.removesuffix("s"): 1}


def parse(text: str, exponent: int = 1) -> Unit | None:
    """The unit that a text names, None if it names none that matters (``units``).

    Example:
        >>> parse("cm", 2) == parse("square centimeters"), parse("km/h").matches(parse("miles per hour"))
        (True, True)
    """
    powers: dict[str, int] = {}
    factor = Fraction(1)
    parts = re.split(r"\s*/\s*|\s+per\s+", text.strip())
    for side, part in enumerate(parts):
        square = 2 if re.search(r"\b(?:square|sq)\b", part) else 3 if re.search(r"\bcubic\b", part) else 1
        for word in re.findall(r"[A-Za-z.]+", part):
            sign = (1 if side == 0 else -1) * square * (exponent if side == len(parts) - 1 else 1)
            size, dimensions = _word(word)
            factor *= size**sign
            for name, power in dimensions.items():
                powers[name] = powers.get(name, 0) + power * sign
    dimension = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(factor, _same_dimension(dimension)) if dimension else None


def _same_dimension(dimension: Dimension) -> Dimension:
    return (("length", 1), ("time", -1)) if dimension == (("speed", 1),) else dimension


def take_off(text: str) -> tuple[str, Unit | None]:
    r"""The amount and its unit; plain words count as units after a number only, and single letters never.

    Example:
        >>> take_off(r"5\text{ cm}^2")[0], take_off("5x")[1] is None, take_off(r"8 \%")[1] == PERCENT
        ('5', True, True)
    """
    text = text.strip()
    if text.startswith("\\$"):
        return text[2:].strip(), DOLLAR
    if match := re.search(r"\s*\\?%$|\s*\\text\s*\{\s*(?:percent|percentage|pct)\s*\}$|(?<=\d)\s*percent$", text):
        return text[: match.start()], PERCENT
    if _CALL.search(text):
        return text, None
    if match := re.search(r"\s*\^\{\\circ\}\s*(?:\\text\{\s*)?([CFK]?)(?:\s*\})?$", text):
        letter = match.group(1)
        return text[: match.start()], Unit(Fraction(1), ((f"degree {letter}", 1),)) if letter else DEGREE
    if (match := _TEXT.search(text)) and text[: match.start()].strip():
        return text[: match.start()].strip(), parse(match.group(1), _power(match.group(2)))
    if (match := _PLAIN.search(text)) and _NUMBER.fullmatch(text[: match.start()]) and _is_unit(match.group(1)):
        return text[: match.start()].strip(), parse(match.group(1), _power(match.group(2)))
    return text, None


def _is_unit(words: str) -> bool:
    # Two or three letters that no table knows are a product of variables.
    first = re.split(r"[ /.]", words)[0]
    return len(first) > 3 or first.lower().removesuffix("s") in _SIMPLE or first.lower() in _SIMPLE


def _power(text: str) -> int:
    digits = re.sub(r"[^\d-]", "", text)
    return int(digits) if digits else 1

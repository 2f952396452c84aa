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
    """`factor` times the base unit of `dimension`, `scale` (of ``million``) included; degrees are their own base."""

    factor: Fraction
    dimension: Dimension
    scale: Fraction = Fraction(1)

    def matches(self, other: Unit) -> bool:
        return self.dimension == other.dimension


_SIMPLE: dict[str, tuple[str, str]] = {
    # name: (factor, dimension)
    **dict.fromkeys(["m", "meter", "metre"], ("1", "length")),
    **dict.fromkeys(["km", "kilometer", "kilometre"], ("1000", "length")),
    **dict.fromkeys(["cm", "centimeter", "centimetre"], ("1/100", "length")),
    **dict.fromkeys(["mm", "millimeter", "millimetre"], ("1/1000", "length")),
    **dict.fromkeys(["nm", "nanometer"], ("1/1000000000", "length")),
    **dict.fromkeys(["microm", "micron", "micrometer"], ("1/1000000", "length")),
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
    **dict.fromkeys(["euro", "eur", "€"], ("1", "euro")),
    **dict.fromkeys(["pound", "gbp", "£"], ("1", "pound")),
    **dict.fromkeys(["yuan", "rmb", "cny", "元"], ("1", "yuan")),
    **dict.fromkeys(["yen", "jpy"], ("1", "yen")),
    **dict.fromkeys(["rupee", "rs", "inr", "₹"], ("1", "rupee")),
    **dict.fromkeys(["ohm"], ("1", "ohm")),
    **dict.fromkeys(["volt", "v"], ("1", "volt")),
    **dict.fromkeys(["厘米"], ("1/100", "length")),
    **dict.fromkeys(["米"], ("1", "length")),
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
_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "百": 10**2,
    "千": 10**3,
    "万": 10**4,
    "亿": 10**8,
}
_NEUTRAL = frozenset(["unit", "square", "cubic", "sq", "total", "way", "number", "of", ""])
PERCENT = Unit(Fraction(1), (("percent", 1),))
DEGREE = Unit(Fraction(1), (("degree", 1),))
RADIAN = Unit(Fraction(1), (("radian", 1),))

_CHARACTERS = 300
_CALL = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])[^\\]*\^\{\\circ\}")  # its degrees are no unit
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d))?"
_ATOM = rf"(?:\\text\s*\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}|\\Omega(?![A-Za-z])|\\mu(?![A-Za-z])){_POWER}"
_TAIL = re.compile(rf"(?:\\cdot\s*)?{_ATOM}(?:\s*(?:\\cdot|/)?\s*{_ATOM})*\s*$")
_PLAIN = re.compile(
    r"(?<=[\d})])\s*(?:[^\W\d_]{2,}\.?|[^\x00-\x7f\W\d_]|[€£¥₹])(?:(?:\s*/\s*|\s)[^\W\d_]+)*\s*(?:\^\s*\{?\s*-?\d\s*\}?)?$"
)
_NUMBER = re.compile(r"-?\s*(?:\\frac\{-?\d+\}\{\d+\}|[\d.,\s/e+-]*\d)(?:\s*\\frac\{\d+\}\{\d+\})?\s*$")
_CURRENCY = re.compile(
    r"(?:[A-Z]{1,2})?(?:\\\$|([€£¥₹]))|\\text\s*\{\s*(?:[A-Z]{0,2}\\\$|(Rs|[A-Z]{3})\.?)\s*\}(?=\s*\d)"
)


def _word(word: str) -> tuple[Fraction, dict[str, int], int]:
    word = word.strip(" .")
    scale = next((scale for name, scale in _SCALES.items() if word.lower().removesuffix("s") == name), 0)
    if scale:
        return Fraction(1), {}, scale
    if word[:1] in _SCALES:
        factor, dimensions, scale = _word(word[1:])
        return factor, dimensions, scale * _SCALES[word[0]]
    word = word.lower()
    for name in (word, word.removesuffix("s"), word.removesuffix("es")):
        if name in _SIMPLE:
            size, dimension = _SIMPLE[name]
            return Fraction(size), {dimension: 1}, 1
        if name in _NEUTRAL:
            return Fraction(1), {}, 1
    return Fraction(1), {word.removesuffix("s"): 1}, 1


def parse(text: str) -> Unit | None:
    r"""The unit that a text names, None if it names none that matters (``units``).

    Example:
        >>> parse("cm^2") == parse("square centimeters"), parse("km/h").matches(parse("miles per hour"))
        (True, True)
        >>> parse(r"\text{g}\,\text{cm}^{-3}") == parse("g/cm^3")
        True
    """
    text = re.sub(r"\s*\}?\s*\^\s*\{?\s*(-?\d+)", r"^\1", text.replace("\\Omega", "ohm").replace("\\mu", "micro"))
    text = re.sub(r"micro[\s{]*(?:\\text\s*\{\s*)?", "micro", text)
    text = re.sub(r"\\(?:text|cdot)|[{}()]", " ", text)
    powers: dict[str, int] = {}
    factor = scale = Fraction(1)
    for side, part in enumerate(re.split(r"/|\bper\b", text)):
        square = 2 if re.search(r"\b(?:square|sq)\b", part) else 3 if re.search(r"\bcubic\b", part) else 1
        for word, power in re.findall(r"([^\W\d_]+\.?|[€£¥₹])(?:\^(-?\d+))?", part):
            sign = (1 if side == 0 else -1) * square * int(power or 1)
            size, dimensions, times = _word(word)
            factor, scale = factor * size**sign, scale * times
            for name, exponent in dimensions.items():
                powers[name] = powers.get(name, 0) + exponent * sign
    dimension = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(factor * scale, _same_dimension(dimension), scale) if dimension or scale != 1 else None


def _same_dimension(dimension: Dimension) -> Dimension:
    return (("length", 1), ("time", -1)) if dimension == (("speed", 1),) else dimension


def take_off(text: str) -> tuple[str, Unit | None]:
    r"""The amount and its unit; plain words count as units after a number only, and single letters never.

    Example:
        >>> take_off(r"5\text{ cm}^2")[0], take_off("5x")[1] is None, take_off(r"8 \%")[1] == PERCENT
        ('5', True, True)
    """
    text = text.strip()
    if len(text) > _CHARACTERS:
        return text, None
    if (match := _CURRENCY.match(text)) and text[match.end() :].strip():
        amount, unit = take_off(text[match.end() :])
        scale = unit.scale if unit else Fraction(1)
        money = parse(match.group(1) or match.group(2) or "dollar")
        return amount, money and Unit(scale, money.dimension, scale)
    if match := re.search(r"\s*\\?%$|\s*\\text\s*\{\s*(?:percent|percentage|pct)\s*\}$|(?<=\d)\s*percent$", text):
        return text[: match.start()], PERCENT
    if _CALL.search(text):
        return text, None
    if match := re.search(r"\s*\^\{\\circ\}\s*(?:\\text\{\s*)?([CFK]?)(?:\s*\})?$", text):
        letter = match.group(1)
        return text[: match.start()], Unit(Fraction(1), ((f"degree {letter}", 1),)) if letter else DEGREE
    if match := _TAIL.search(text):
        amount = text[: match.start()].strip()
        if amount and amount[-1] not in "+-*/=^_(," and ("\\text" in match.group() or _NUMBER.fullmatch(amount)):
            return amount, parse(match.group())
    text = re.sub(r"(?<=\d)\s*\(([A-Za-z][A-Za-z ]*)\)$", r" \1", text)
    match = _PLAIN.search(text)
    if match and _NUMBER.fullmatch(text[: match.start()]) and _is_unit(match.group()):
        return text[: match.start()].strip(), parse(match.group())
    return text, None


def _is_unit(words: str) -> bool:
    # Letters that no table knows are a product of variables, unless a space sets off a word.
    first = re.split(r"[\s/.^]", words.strip())[0]
    known = first.lower().removesuffix("s") in _SIMPLE or first.lower() in _SIMPLE
    return known or not first.isascii() or (len(first) > 3 and words[0] == " ") or first.lower() in _SCALES

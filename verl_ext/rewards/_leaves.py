"""When two single amounts or words are the same: numbers, expressions, units, bases, names."""

from __future__ import annotations

import re
from itertools import pairwise

from verl_ext.rewards import _units
from verl_ext.rewards._expressions import expression
from verl_ext.rewards._latex import key, split
from verl_ext.rewards._numbers import Literal, equal_numbers, literal
from verl_ext.rewards._reading import Leaf
from verl_ext.rewards._values import equal_expressions, equal_number_expression

_BASE = re.compile(r"(\w+?)_\{?(\d{1,2}|\\text\{[^{}]*\})\}?")
_NUMERAL = re.compile(r"[0-9][0-9A-Fa-f]*|[A-F][0-9A-F]+")
_TERMS = 20
_LOG = re.compile(r"\\log(?!\s*_)(?![A-Za-z])")


def same_leaf(truth: Leaf, answer: Leaf) -> bool:
    if key(truth.bare or truth.text) == key(answer.bare or answer.text):
        return True
    if truth.word or answer.word:
        return _word(truth.text) == _word(answer.text)
    if truth.unit is not None and answer.unit is not None:
        return _same_amount(truth, answer)
    if truth.unit is None and answer.unit is None:
        return _same_text(truth.text, answer.text)
    return _same_with_one_unit(truth, answer)


def _same_amount(truth: Leaf, answer: Leaf) -> bool:
    assert truth.unit is not None
    assert answer.unit is not None
    if {truth.unit, answer.unit} == {_units.DEGREE, _units.RADIAN}:
        return _same_text(_scaled(truth), _scaled(answer))
    if not truth.unit.matches(answer.unit):
        return False
    factor = answer.unit.factor / truth.unit.factor
    if factor == 1:
        return _same_text(truth.text, answer.text)
    return _same_text(truth.text, f"({answer.text}) \\cdot \\frac{{{factor.numerator}}}{{{factor.denominator}}}")


def _same_with_one_unit(truth: Leaf, answer: Leaf) -> bool:
    unit = truth.unit or answer.unit
    if unit == _units.PERCENT:
        if _same_text(_scaled(truth), _scaled(answer)):
            return True
        # "0.15" is not "0.15%", but a table that asks for per cent has "15".
        number = literal(truth.text)
        return (number is None or abs(number.value) >= 1) and _same_text(truth.text, answer.text)
    if unit is not None and unit.scale != 1:
        return _same_text(_scaled(truth), _scaled(answer))
    if unit == _units.DEGREE and re.search(r"\\pi", truth.text + answer.text):
        return _same_text(_scaled(truth), _scaled(answer))
    return _same_text(truth.text, answer.text)


def _scaled(leaf: Leaf) -> str:
    if leaf.unit == _units.PERCENT:
        return f"({leaf.text})/100"
    if leaf.unit is not None and leaf.unit.scale != 1:
        return f"({leaf.text}) \\cdot {leaf.unit.scale}"
    return f"({leaf.text}) \\cdot \\pi/180" if leaf.unit == _units.DEGREE else leaf.text


def _same_text(truth: str, answer: str) -> bool:
    if key(truth) == key(answer):
        return True
    first, second = literal(truth), literal(answer)
    if first and second:
        return equal_numbers(first, second)
    if is_word(truth) or is_word(answer):
        return _word(truth) == _word(answer)
    if based := _same_base(truth, answer):
        return based[0]
    if ratios := _same_ratio(truth, answer):
        return ratios[0]
    if "\\ln" in truth + answer:
        # Beside a natural logarithm, one without a base is natural too.
        truth, answer = (_LOG.sub(r"\\ln ", text) for text in (truth, answer))
    return _same_value(truth, answer, first, second)


def _same_value(truth: str, answer: str, first: Literal | None, second: Literal | None) -> bool:
    left = None if first else expression(truth)
    right = None if second else expression(answer)
    if first and right is not None:
        return equal_number_expression(first, right, number_is_truth=True)
    if second and left is not None:
        return equal_number_expression(second, left, number_is_truth=False)
    return left is not None and right is not None and equal_expressions(left, right)


def in_base(text: str) -> bool:
    """Whether this is a number with its base: ``4210_5``."""
    match = _BASE.fullmatch(text.strip())
    return match is not None and _NUMERAL.fullmatch(match.group(1)) is not None


def _same_base(truth: str, answer: str) -> tuple[bool] | None:
    """``4210_5``: the digits count; the base may be left out by either, and must be the same if both name it."""
    first, second = _BASE.fullmatch(truth.strip()), _BASE.fullmatch(answer.strip())
    if not first and not second:
        return None
    numerals = [match.group(1) if match else text.strip() for match, text in ((first, truth), (second, answer))]
    if not all(_NUMERAL.fullmatch(numeral) for numeral in numerals):
        return None
    bases = {match.group(2) for match in (first, second) if match}
    return (len(bases) == 1 and numerals[0].lower() == numerals[1].lower(),)


def _same_ratio(truth: str, answer: str) -> tuple[bool] | None:
    """``1:2`` is ``2:4`` and ``1/2``."""
    ratios = [split(text, ":") for text in (truth, answer)]
    if {len(parts) for parts in ratios} == {1} or not all(map(all, ratios)):
        return None
    if max(map(len, ratios)) == 2:
        first, second = (_quotient(*parts) if len(parts) == 2 else parts[0] for parts in ratios)
        return (_same_text(first, second),)
    return (
        len(ratios[0]) == len(ratios[1]) <= _TERMS
        and all(
            _same_text(*(_quotient(before, after) for before, after in steps))
            for steps in zip(*map(pairwise, ratios), strict=True)
        ),
    )


def _quotient(top: str, bottom: str) -> str:
    return f"\\frac{{{top}}}{{{bottom}}}"


def _word(text: str) -> str:
    return re.sub("^(?:option|choice|answer):?(?=.)", "", key(text).casefold()).strip("()")


def is_word(text: str) -> bool:
    """A name, a direction, a choice: letters that no one multiplies."""
    plain = key(text)
    if re.search(r"[^\W\d_]", plain) and not plain.isascii():
        return True
    return re.fullmatch(r"\([A-Za-z]\)|[A-Za-z]{4,}(?:[-A-Za-z]*)|(?i:yes|no|odd)", plain) is not None

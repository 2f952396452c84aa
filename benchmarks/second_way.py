"""Whether an answer has its ground truth's value, without `verl_ext.rewards`: math-verify alone, and numbers."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator
from enum import Enum
from multiprocessing import get_context

import mpmath
import sympy

_LIMIT_S = 3
_POINTS = 3


class Verdict(Enum):
    """What the second way says of a pair that was judged equal.

    `NOT_READ`: it reads one of the two not at all, or not as a value; `DIFFERS`: the values are different numbers.
    """

    SAME_TEXT = "same text"
    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_READ = "not read"


def plain(text: str) -> str:
    """Characters that carry meaning."""
    text = re.sub(r"\\(?:left|right|displaystyle|[,;!: ])|[\s$]", "", text.strip())
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").rstrip(".,")


def _numbers(expr: sympy.Expr, names: list[str]) -> list[complex] | None:
    draw = random.Random("|".join(names))
    values = []
    for _ in range(_POINTS):
        point = {name: mpmath.mpf(draw.uniform(1.1, 2.9)) for name in names}
        given = {symbol: sympy.Float(point[str(symbol)], 30) for symbol in expr.free_symbols}
        value = expr.xreplace(given).evalf(20)
        if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo):
            return None
        values.append(complex(value))
    return values


def compare(truth: str, answer: str) -> Verdict:
    """One pair; math-verify's own comparison first, then the values of what it parses as expressions."""
    from math_verify import parse, verify
    from math_verify.parser import LatexExtractionConfig

    if plain(truth) == plain(answer):
        return Verdict.SAME_TEXT
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    read = [parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (truth, answer)]
    if not all(read):
        return Verdict.NOT_READ
    if verify(*read, timeout_seconds=None):
        return Verdict.AGREES
    first, second = (parsed[0] for parsed in read)
    if isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr):
        names = sorted({str(symbol) for expr in (first, second) for symbol in expr.free_symbols})
        left, right = _numbers(first, names), _numbers(second, names)
        if left and right:
            close = all(abs(a - b) <= 1e-6 * max(abs(a), abs(b), 1e-30) for a, b in zip(left, right, strict=True))
            return Verdict.AGREES if close else Verdict.DIFFERS
    return Verdict.NOT_READ


class _LateError(BaseException):
    """Not an `Exception`: math-verify takes those for "cannot be read"."""


def _limited(pair: tuple[str, str]) -> Verdict:
    def late(*_: object) -> None:
        raise _LateError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(_LIMIT_S)
    try:
        return compare(*pair)
    except (_LateError, Exception):
        return Verdict.NOT_READ
    finally:
        signal.alarm(0)


def agree(pairs: list[tuple[str, str]], workers: int) -> Iterator[Verdict]:
    """The verdict on every pair of (ground truth, answer), in order."""
    with get_context("spawn").Pool(workers) as processes:
        yield from processes.imap(_limited, pairs, chunksize=8)

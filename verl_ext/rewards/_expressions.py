r"""Expressions: a canonical text as sympy has it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from sympy.core.function import AppliedUndef

from verl_ext.rewards import _formula
from verl_ext.rewards._latex import bracket_depths, canonical, has_command, is_readable
from verl_ext.rewards._values import too_large

_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])"
_SIMPLE_CALL = re.compile(
    rf"({_TRIGONOMETRIC}(?:\^(?:\{{\d+\}}|\d))?\s*\d*\s*(?:\\[a-z]+(?![A-Za-z])|[a-z])(?:_(?:\w|\{{\w+\}}))?)"
    rf"(?=\s*(?:\\cdot|\([^()]{{2,}}\)|{_TRIGONOMETRIC}))"
)
DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*d\s*(?:\^\{?\d\}?)?\s*((?:\\[a-z]+\s*)?[A-Za-z]?(?:_\{?\w+\}?)?)\s*\}"
    r"\s*\{\s*d\s*(?:\\[a-z]+|[A-Za-z])\s*(?:\^\{?\d\}?)?\s*\}"
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_OPERATORS = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")
_MISREAD = ("coth", "sech", "csch", "overline", "overrightarrow", "pmod")
"""Commands that the parser takes for the ones that they begin with."""
_PARSED_CHARACTERS, _PARSED_DEPTH, _PARSED_OPERATORS = 400, 8, 6
_STACKED = re.compile(r"(?:\^\s*\\?[A-Za-z0-9]+\s*){9}")
"""Powers without braces that LaTeX refuses, and the parser reads for minutes."""


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


def _takes_long(text: str) -> bool:
    # The parser's time grows much faster than these; no ground truth seen has half of any in one expression.
    repeated = len(_OPERATORS.findall(text)) > _PARSED_OPERATORS or text.count("|") > 2 * _PARSED_OPERATORS
    return repeated or len(text) > _PARSED_CHARACTERS or max(bracket_depths(text), default=0) > _PARSED_DEPTH


def _parsed(text: str) -> Any:
    try:
        # Not evaluated: sympy would compute whatever is written.
        with sympy.evaluate(False):
            return latex2sympy(text, normalization_config=None, conversion_config=_CONVERSION)
    except MemoryError:
        raise
    except Exception:
        # The parser has no exception class of its own: whatever it raises means that it cannot read this.
        return None


def normal(parsed: sympy.Expr) -> Any:
    """With the imaginary unit for i, and names for functions that nobody defined."""
    opaque = parsed.atoms(AppliedUndef, sympy.Derivative)
    names = {part: sympy.Symbol(f"[{part}]") for part in sorted(opaque, key=str, reverse=True)}
    imaginary = {symbol: sympy.I for symbol in parsed.free_symbols if str(symbol) == "i"}
    with sympy.evaluate(False):
        return parsed.xreplace({**names, **imaginary})


def warm_up() -> None:
    """Make math-verify's parser build the tables that it needs, which takes seconds: that is no answer's fault."""
    for text in (
        r"\frac{1}{2}(e^{a t}+\sqrt{x_{1}^{2}-1})\sin(2t)-3\pi i",
        r"\left\lfloor\frac{2n-1}{5}\right\rfloor+\binom{2n}{n}n!",
        r"-\ln x+\log_{2} 8\cdot x(t)+\arcsin{a}-\cos^{2}\theta/2",
        r"C_{1}e^{-t}\cos(\omega t)+[P_{0}^{2/5}-K]^{-1/2}|x|",
    ):
        _parsed(_readable(canonical(text)))


@lru_cache(maxsize=512)
def expression(text: str) -> Any:
    """The sympy expression of a canonical text, None if it cannot be read as one, or is too deep to be."""
    try:
        return _expression(text)
    except RecursionError:
        return None


def _expression(text: str) -> Any:
    if not is_readable(text):
        return None
    plain = _readable(text)
    if _STACKED.search(plain):
        return None
    parsed = _formula.read(plain)
    if parsed is None and not _takes_long(plain) and not has_command(plain, *_MISREAD):
        parsed = _parsed(plain)
    if not isinstance(parsed, sympy.Expr) or isinstance(parsed, sympy.MatrixBase) or parsed.has(sympy.nan, sympy.zoo):
        return None
    if too_large(parsed):
        # In the order in which it is written: sympy would compute the terms of a sum to sort them.
        return sympy.Symbol(f"[{sympy.sstr(parsed, order='none')}]")
    return normal(parsed)

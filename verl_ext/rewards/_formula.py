r"""A reader of plain formulas, for speed: what it reads, it reads in a fraction of a millisecond.

math-verify's parser takes up to a second for the first formula of a new shape, in a process that is killed after a
few. This one knows sums, products, powers, fractions, roots, names and functions of what stands in brackets, and
nothing that could be read in two ways: there it gives up, and math-verify's parser reads. Where both read, they read
the same, which a test holds against all formulas of the benchmark files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from string import ascii_letters
from typing import Any

import sympy

_TOKENS = re.compile(r"\s*(\\[A-Za-z]+|\d+(?:\.\d+)?|[A-Za-z]|[-+*/^_!()\[\]{}])\s*")
_GREEK = """
    alpha beta delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau upsilon phi varphi
    chi psi omega hbar Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega
"""
_LETTERS = frozenset(_GREEK.split())
_ARGUMENTS = frozenset(ascii_letters) - set("dei")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "\\sin": sympy.sin,
    "\\cos": sympy.cos,
    "\\tan": sympy.tan,
    "\\cot": sympy.cot,
    "\\arcsin": sympy.asin,
    "\\arccos": sympy.acos,
    "\\arctan": sympy.atan,
    "\\sinh": sympy.sinh,
    "\\cosh": sympy.cosh,
    "\\tanh": sympy.tanh,
    "\\coth": sympy.coth,
    "\\sech": sympy.sech,
    "\\csch": sympy.csch,
    "\\exp": sympy.exp,
    "\\ln": sympy.log,
    # math-verify's parser computes it while it reads.
    "\\Gamma": sympy.gamma,
}
_ENDS = ("", "+", "-", ")", "]", "}")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class _UnknownError(Exception):
    """Something that this reader leaves to the other one."""


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = [*tokens, ""], 0

    @property
    def next(self) -> str:
        return self.tokens[self.position]

    def take(self, wanted: str = "") -> str:
        token = self.next
        if not token or (wanted and token != wanted):
            raise _UnknownError
        self.position += 1
        return token

    def sum(self) -> Any:
        sign = self.take() if self.next in ("+", "-") else "+"
        terms = [self.product(sign)]
        while self.next in ("+", "-"):
            terms.append(self.product(self.take()))
        return terms[0] if len(terms) == 1 else sympy.Add(*terms, evaluate=False)

    def product(self, sign: str) -> Any:
        factors = [sympy.Integer(-1)] if sign == "-" else []
        factors.append(self.power())
        while self.next not in _ENDS:
            if self.next == "/":
                self.take()
                divisor = self.power()
                # 1/2x has two readings.
                if self.next not in _ENDS:
                    raise _UnknownError
                factors.append(sympy.Pow(divisor, sympy.Integer(-1), evaluate=False))
            elif self.next in ("\\cdot", "\\times"):
                self.take()
                factors.append(self.power())
            elif self.next[0].isdigit() or (self.next == "\\frac" and factors[-1].is_Number):
                # A number after something else may be part of it: 1 000, and 1 1/2.
                raise _UnknownError
            else:
                factors.append(self.power())
        return factors[0] if len(factors) == 1 else sympy.Mul(*factors, evaluate=False)

    def power(self) -> Any:
        base = self.atom()
        if self.next == "^":
            base = sympy.Pow(base, self.exponent(), evaluate=False)
        if self.next == "!":
            self.take()
            base = sympy.factorial(base, evaluate=False)
        if self.next in ("^", "!"):
            raise _UnknownError
        return base

    def exponent(self) -> Any:
        self.take("^")
        if self.next == "{":
            return self.bracketed()
        token = self.take()
        if len(token) == 1 and token.isdigit():
            return sympy.Integer(token)
        exponent = self.name(token)
        if not exponent.is_Atom:
            raise _UnknownError
        return exponent

    def bracketed(self) -> Any:
        closing = _CLOSING.get(self.take())
        if closing is None:
            raise _UnknownError
        inner = self.sum()
        self.take(closing)
        return inner

    def atom(self) -> Any:
        token = self.next
        if token in _CLOSING:
            return self.bracketed()
        self.take()
        if token[0].isdigit():
            return sympy.Float(token) if "." in token else sympy.Integer(token)
        if token in _FUNCTIONS and (token != "\\Gamma" or self.next == "("):
            return self.function(token)
        if token == "\\frac":
            top = self.braces()
            return sympy.Mul(top, sympy.Pow(self.braces(), sympy.Integer(-1), evaluate=False), evaluate=False)
        if token == "\\binom":
            above = self.braces()
            return sympy.binomial(above, self.braces(), evaluate=False)
        if token == "\\sqrt":
            index = self.bracketed() if self.next == "[" else sympy.Integer(2)
            if not index.is_Integer or index == 0:
                raise _UnknownError
            return sympy.Pow(self.braces(), sympy.Rational(1, index), evaluate=False)
        return self.name(token)

    def braces(self) -> Any:
        if self.next != "{":
            raise _UnknownError
        return self.bracketed()

    def function(self, token: str) -> Any:
        exponent = self.exponent() if self.next == "^" else None
        # \sin^{-1} is the inverse, not the reciprocal.
        if exponent is not None and not (exponent.is_Integer and exponent > 0):
            raise _UnknownError
        in_brackets = self.next in ("(", "{")
        value = _FUNCTIONS[token](self.atom(), evaluate=False)
        # Without brackets, an argument has a clear end before a sign only.
        if self.next in ("^", "!") or (not in_brackets and self.next not in _ENDS):
            raise _UnknownError
        return value if exponent is None else sympy.Pow(value, exponent, evaluate=False)

    def name(self, token: str) -> Any:
        if token == "\\pi":
            return sympy.pi
        letter = token.removeprefix("\\")
        # d may belong to a differential, f(x + 1) may be a call.
        differential = token == "d" and self.next.startswith(("\\", *ascii_letters))
        if (token != letter and letter not in _LETTERS) or not letter[0].isalpha() or differential:
            raise _UnknownError
        plain = self.next != "_"
        if not plain:
            self.take()
            letter += "_" + self.subscript()
        if self.next == "(" and not self.factor_follows():
            if plain and token not in ("e", "i"):
                return self.call(token)
            raise _UnknownError
        if plain and token == "e":
            if self.next != "^":
                return sympy.E
            return sympy.exp(self.exponent(), evaluate=False)
        return sympy.I if plain and token == "i" else sympy.Symbol(letter)

    def factor_follows(self) -> bool:
        """Whether the parentheses hold a sum: x(t + 1) is a product, as for the other reader."""
        end = self.tokens.index(")", self.position) if ")" in self.tokens[self.position :] else self.position
        return any(token in ("+", "-") for token in self.tokens[self.position : end])

    def call(self, name: str) -> Any:
        self.take("(")
        argument = self.take()
        if argument not in _ARGUMENTS:
            raise _UnknownError
        self.take(")")
        return sympy.Symbol(f"[{name}({argument})]")

    def subscript(self) -> str:
        if self.next != "{":
            token = self.take()
            if len(token) != 1 or not token.isalnum():
                raise _UnknownError
            return token
        self.take("{")
        parts = []
        while self.next != "}":
            parts.append(self.take())
        self.take("}")
        text = "".join(parts)
        if not text.isalnum():
            raise _UnknownError
        return text if len(text) == 1 else f"{{{text}}}"


def read(text: str) -> Any:
    r"""The sympy expression of a plain formula, not evaluated; None where the other parser has to read.

    Example:
        >>> read(r"\sin(a)+x_{1}^{2}"), read(r"\sin x y"), read("f(2x)"), read("1/2x")
        (x_1**2 + sin(a), None, None, None)
    """
    tokens, position = [], 0
    while position < len(text):
        match = _TOKENS.match(text, position)
        if match is None:
            return None
        tokens.append(match.group(1))
        position = match.end()
    reader = _Reader(tokens)
    try:
        expr = reader.sum()
    except _UnknownError:
        return None
    return None if reader.next else expr

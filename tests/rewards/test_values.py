"""Values: right where people would say so, never computed where they are too large, and never for longer than a bit."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.rewards._expressions import expression
from verl_ext.rewards._grading import grade
from verl_ext.rewards._values import TooLargeError, equal_expressions, value

EXPONENTIALS = [
    (r"3e^{-x^2}", r"\frac{3}{e^{x^{2}}}", True),
    (r"3e^{-x^2}", r"\frac{3}{e^{x^{3}}}", False),
    (r"5-2e^{-t/40}", r"5-2e^{-0.025t}", True),
    (r"5-2e^{-t/40}", r"5-2e^{-0.25t}", False),
    (r"\frac{V}{R}\left(1-e^{-\frac{Rt}{L}}\right)", r"\frac{V}{R}-\frac{V}{R}e^{-Rt/L}", True),
    (r"\frac{V}{R}\left(1-e^{-\frac{Rt}{L}}\right)", r"\frac{V}{R}-\frac{V}{R}e^{-Lt/R}", False),
    (r"N_0e^{-\lambda t}", r"\frac{N_0}{e^{\lambda t}}", True),
    (r"e^{x+y}", "e^xe^y", True),
    (r"e^{x+y}", "e^x+e^y", False),
    (r"e^{-10000t}", r"\frac{1}{e^{10000t}}", True),
    (r"e^{-10000t}", r"\frac{1}{e^{1000t}}", False),
    (r"A e^{-10^6t}", r"Ae^{-1000000t}", True),
    (r"2^{\frac{n(n+1)}{2}}", r"\sqrt{2^{n^2+n}}", True),
    (r"2^{\frac{n(n+1)}{2}}", r"\sqrt{2^{n^2-n}}", False),
    (r"2^{2^{n}}", r"4^{2^{n-1}}", True),
    (r"2^{2^{n}}", r"4^{2^{n+1}}", False),
    ("a^{b^c}", "a^{bc}", False),
    ("x^{x^x}", r"x^{x^{x}}\cdot 1", True),
    ("x^{x^x}", "(x^x)^x", False),
    (r"(n!)^2", r"n!\cdot n!", True),
    (r"(n!)^2", r"n!\cdot (n-1)!", False),
    (r"(n!)!", r"n!\cdot(n!-1)!", True),
    (r"n^{n^n}", r"n^{n^{n}}+0", True),
    (r"n^{n^n}", r"n^{2n^n}", False),
    (r"\frac{d!}{2k(d-k)!}", r"\frac{d!}{(2k)(d-k)!}+0", True),
    (r"\frac{d!}{2k(d-k)!}", r"\frac{d!}{k(d-k)!}", False),
    (r"\sinh x", r"\frac{e^x-e^{-x}}{2}", True),
    (r"\sqrt{2}^{\sqrt2}", r"2^{\frac{\sqrt2}{2}}", True),
]
COMPLEX = [
    ("1+i", r"\sqrt{2}e^{i\pi/4}", True),
    ("1+i", r"\sqrt{2}e^{-i\pi/4}", False),
    (r"2e^{2\pi i/3}", r"-1+i\sqrt3", True),
    (r"2e^{2\pi i/3}", r"1+i\sqrt3", False),
    ("-1", r"e^{i\pi}", True),
    ("-1", "i^2", True),
    ("1", "i^2", False),
    ("i^i", r"e^{-\pi/2}", True),
    (r"\frac{1}{1+i}", r"\frac{1-i}{2}", True),
    (r"\frac{1}{1+i}", r"\frac{1+i}{2}", False),
    (r"\cos\theta+i\sin\theta", r"e^{i\theta}", True),
    (r"\cos\theta+i\sin\theta", r"e^{-i\theta}", False),
    (r"(-1)^n", r"\cos(n\pi)", True),
    (r"(-1)^{n+1}", r"(-1)^{n-1}", True),
    (r"(-1)^n", r"(-1)^{n+1}", False),
]
ROOTS = [
    (r"-\sqrt[3]{5}", r"\sqrt[3]{-5}", True),
    (r"\sqrt[3]{5}", r"\sqrt[3]{-5}", False),
    ("-3", r"\sqrt[3]{-27}", True),
    ("3", r"\sqrt[3]{-27}", False),
    ("-2", r"\sqrt[5]{-32}", True),
    ("-2", r"(-8)^{1/3}", True),
    ("-2", r"(-8)^{\frac{1}{3}}", True),
    ("4", r"(-8)^{2/3}", True),
    ("-4", r"(-8)^{2/3}", False),
    (r"-\frac12", r"(-8)^{-1/3}", True),
    (r"-\sqrt[3]{x}", r"\sqrt[3]{-x}", True),
    (r"\sqrt[3]{x}", r"\sqrt[3]{-x}", False),
    (r"|x|", r"\sqrt[3]{x^3}", False),
    ("2i", r"\sqrt{-4}", True),
    ("-2i", r"\sqrt{-4}", False),
    ("-2", r"\sqrt{-4}", False),
    (r"\frac{1-\sqrt[3]{2}}{3}", r"\frac{1+\sqrt[3]{-2}}{3}", True),
]
EXACT = [
    (r"2^{100}\pi", r"2^{100}\pi+1", False),
    ("e^{100}", "e^{100}+1", False),
    ("e^{100}", r"e^{50}\cdot e^{50}", True),
    (r"\pi\cdot 10^{-40}", r"2\pi\cdot 10^{-40}", False),
    ("2^{1000}", "2^{1000}+1", False),
    (r"\frac{1}{3^{200}}", "9^{-100}", True),
    ("0", r"\sin\pi", True),
    ("0", r"(\sqrt2+\sqrt3)^2-5-2\sqrt6", True),
    ("3", r"\left\lfloor\log_2 8\right\rfloor", True),
    ("2", r"\left\lfloor\log_2 8\right\rfloor", False),
    (r"\binom{100}{50}", r"\frac{100!}{50!50!}", True),
    (r"\binom{100}{50}", r"\frac{100!}{50!51!}", False),
]
BOUND = [
    (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k", True),
    (r"\frac{n(n-1)}{2}", r"\sum_{k=1}^{n} k", False),
    ("n!", r"\prod_{k=1}^{n} k", True),
    ("2^{n}", r"\sum_{k=0}^{n}\binom{n}{k}", True),
    ("5050", r"\sum_{i=1}^{100} i", True),
    ("2", r"\sum_{k=0}^{\infty} 2^{-k}", True),
    ("1", r"\sum_{k=0}^{\infty} 2^{-k}", False),
    (r"\frac{\pi^2}{6}", r"\sum_{k=1}^{\infty} \frac{1}{k^2}", True),
    (r"\frac13", r"\int_0^1 x^2 dx", True),
    (r"\frac12", r"\int_0^1 x^2 dx", False),
    (r"\sqrt{\pi}", r"\int_{-\infty}^{\infty} e^{-x^2} dx", True),
    ("1", r"\lim_{x\to 0}\frac{\sin x}{x}", True),
    ("0", r"\lim_{x\to 0}\frac{\sin x}{x}", False),
]


@pytest.mark.parametrize(("truth", "answer", "right"), [*EXPONENTIALS, *COMPLEX, *ROOTS, *EXACT, *BOUND])
def test_values_decide_both_ways_round(truth: str, answer: str, right: bool) -> None:
    assert [grade(answer, truth) == "correct", grade(truth, answer) == "correct"] == [right, right]


TOO_LARGE = [
    "10^{10^{10}}", "9^{9^{9^9}}", "(10^{10})!", "9!!!!", r"\binom{10^{10}}{10^{9}}", "2^{10^{12}}x", "x^{10^{10}}",
    "10^{-10^{10}}", "e^{10^{10}}", "e^{e^{e^{e^e}}}", "2^{1000000}+x", r"\sum_{k=1}^{10^{9}} \frac{\sin(k^{2})}{k}",
    r"\sum_{k=1}^{1000}\sum_{j=1}^{1000} kj", r"\prod_{k=1}^{10000}k^{k}", r"\Gamma(10000000000)", r"\cosh(10^{9})",
    r"(10^{9})^{(10^{9})}", "1.5^{10^{9}}", r"\sqrt{2}^{10^{9}}", r"\sum_{k=1}^{10^{9}} k!", r"7^{7^{7^{7}}}\cdot i",
]  # fmt: skip


@pytest.mark.parametrize("text", TOO_LARGE)
def test_a_value_too_large_equals_its_like_only(text: str) -> None:
    start = time.process_time()
    assert [grade(text, text), grade(f"{text} ", f"{{{text}}}")] == ["correct", "correct"]
    assert [grade(f"{text}+1", text), grade(f"2\\cdot {text}", text), grade("7", text)] == ["wrong", "wrong", "wrong"]
    assert time.process_time() - start < 10.0


def test_smaller_points_are_tried_where_a_value_is_too_large() -> None:
    x = sympy.Symbol("x")
    with pytest.raises(TooLargeError):
        value(sympy.Pow(x, x**x), {"x": Fraction(60)})
    assert equal_expressions(sympy.factorial(x) ** (x**x), sympy.exp(sympy.log(sympy.factorial(x)) * x**x))


_LEAVES = [sympy.Symbol("x"), sympy.Integer(2), sympy.Rational(-3, 7), sympy.pi, sympy.I]
_BINARY = (sympy.Add, sympy.Mul)
_UNARY = (sympy.sin, sympy.exp, sympy.Abs, sympy.sqrt)


@given(
    st.recursive(
        st.sampled_from(_LEAVES),
        lambda part: st.one_of(
            st.builds(lambda kind, *two: kind(*two, evaluate=False), st.sampled_from(_BINARY), part, part),
            st.builds(lambda kind, one: kind(one, evaluate=False), st.sampled_from(_UNARY), part),
            st.builds(lambda one, power: sympy.Pow(one, power, evaluate=False), part, st.integers(1, 3)),
        ),
        max_leaves=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_values_are_sympys(expr: sympy.Expr) -> None:
    try:
        found = value(expr, {"x": Fraction(5, 3)})
    except TooLargeError:
        return
    if found is None or abs(found) > 10**100:
        return
    theirs = complex(expr.xreplace({sympy.Symbol("x"): sympy.Rational(5, 3)}).evalf(40, maxn=2_000))
    ours = complex(found)
    # At a negative number a rounding below the real axis decides which root it is.
    assert abs(ours - theirs) <= 1e-9 * max(1, abs(ours)) or abs(ours - theirs.conjugate()) <= 1e-9 * abs(ours)


HOSTILE = {
    "functions": "\\sin" * 300 + "1",
    "roots": "\\sqrt" * 300 + "2",
    "signs": "-" * 1_500 + "1",
    "powers in a row": "x^" * 500 + "2",
    "fractions in a row": "\\frac12" * 250,
    "divisions": "1/" * 700 + "2",
    "tower of twos": "2^{" * 40 + "2" + "}" * 40,
    "tower of e": "e^{" * 30 + "x" + "}" * 30,
    "powers of sums": "((1+" * 20 + "x" + ")^{9})" * 20,
    "large powers": "(x+1)^{99999}(x-1)^{99999}",
    "many large numbers": "+".join(f"{n}^{{{n}00}}" for n in range(2, 200)),
    "many long fractions": "+".join(f"\\frac{{1}}{{{n}^{{3000}}}}" for n in range(2, 99)),
    "three integrals": "\\int_0^1\\int_0^1\\int_0^1 \\sin(xyz) dx dy dz",
    "integral that swings": "\\int_0^{\\infty}\\sin(x^2) dx",
    "harmonic series": "\\sum_{n=1}^{\\infty} \\frac{1}{n}",
    "series that swings": "\\sum_{n=1}^{\\infty} \\sin n",
    "product without end": "\\prod_{n=1}^{\\infty} n",
    "limit without end": "\\lim_{x\\to\\infty} x^x",
    "limit that swings": "\\lim_{x\\to 0} \\sin\\frac1x",
    "hyperbolic": "\\cosh\\cosh\\cosh 9",
    "floor": "\\lfloor e^{500}\\rfloor",
    "sine of a large number": "\\sin(10^{1000})",
    "logarithms": "\\ln\\ln\\ln 1",
    "nothing below": "0^{-1}",
    "base one": "\\log_1 2",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_value_takes_long(name: str) -> None:
    start = time.process_time()
    found = expression(HOSTILE[name])
    if found is not None:
        assert not equal_expressions(found, sympy.Symbol("x") + 7)
        assert not equal_expressions(found + 1, sympy.sqrt(71))
    assert time.process_time() - start < 5.0

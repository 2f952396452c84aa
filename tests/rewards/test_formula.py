"""The quick reader of formulas: it reads as math-verify's parser does, and leaves alone what has two readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sympy

from benchmarks.verification import ground_truths
from verl_ext.rewards import _expressions, _formula
from verl_ext.rewards._latex import canonical
from verl_ext.rewards._numbers import literal
from verl_ext.rewards._values import equal_expressions

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"


def readings(text: str) -> tuple[Any, Any]:
    """What the quick reader and math-verify's parser make of a text."""
    plain = _expressions._readable(canonical(text))
    quick, slow = _formula.read(plain), _expressions._parsed(plain)
    if isinstance(slow, sympy.Expr):
        slow = _expressions.normal(slow)
    return quick if quick is None else _expressions.normal(quick), slow


@pytest.mark.parametrize(
    "text",
    [
        "-x^2",
        "2^{-x}y",
        "a/b-c",
        "x^n y_{max}",
        "-\\frac{1}{2}e^{-2t}+e",
        "\\sqrt[3]{2}x!",
        "\\sin^2\\theta-\\ln 2",
        "\\sin(2t)u(t)",
        "u(t+1)",
        "[x+1]^{2}(3-2i)",
        "0.5\\cdot 10^{-3}\\pi r",
        "x_1y_{12}\\hbar",
        "4\\cos\\left(\\frac{\\pi}{7}\\right)",
    ],
)
def test_both_readers_agree(text: str) -> None:
    quick, slow = readings(text)
    assert quick is not None
    assert equal_expressions(slow, quick)


@pytest.mark.parametrize(
    "text",
    [
     "1/2x", "1,2", "2 3", "a/b/c", "1\\frac{1}{2}", "\\sin 2x", "\\sin x y", "\\sin^{-1} x", "f(2x)", "dx", "x^y^z",
     "n!!", "|x|", "\\log x", "\\frac12x", "x'", "(1", "", "x+", "\\sqrt[n]{2}", "\\ln x/2", "\\int x",
    ],
)  # fmt: skip
def test_what_has_two_readings_is_left_to_the_other_reader(text: str) -> None:
    assert _formula.read(text) is None


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no benchmark files in {FOLDER}")
@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_both_readers_agree_on_the_formulas_of_benchmarks(every: int) -> None:
    names = ("minerva_math", "math500", "olympiadbench")
    truths = [truth for name in names for truth in ground_truths(FOLDER / f"{name}.parquet")]
    formulas = [truth for truth in dict.fromkeys(truths) if literal(canonical(truth)) is None]
    read = 0
    for truth in formulas[::every]:
        quick, slow = readings(truth)
        if quick is not None:
            read += 1
            assert isinstance(slow, sympy.Expr), truth
            assert equal_expressions(slow, quick), truth
    assert read > 0.4 * len(formulas) / every

"""The grading rules: pairs judged by hand, the symmetry they should have, and what makes canonical text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.rewards._grading import grade
from verl_ext.rewards._latex import canonical
from verl_ext.rewards._numbers import literal
from verl_ext.rewards.answer_text import unboxed


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_PAIRS = _beside("pairs")
PAIRS: list[tuple[str, str, bool]] = _PAIRS.PAIRS
REPORTED: list[tuple[str, str, bool]] = _beside("reported").REPORTED


@pytest.mark.parametrize(("truth", "answer", "right"), PAIRS)
def test_pairs_are_judged_as_a_person_would(truth: str, answer: str, right: bool) -> None:
    assert (grade(answer, truth) == "correct") == right


@pytest.mark.parametrize(("truth", "answer", "right"), REPORTED)
def test_reported_pairs_and_their_like(truth: str, answer: str, right: bool) -> None:
    assert (grade(answer, unboxed(truth)) == "correct") == right


def test_table_has_both_verdicts_and_stands_in_the_docs() -> None:
    assert len(PAIRS) >= 60
    assert min(sum(right for *_, right in PAIRS), sum(not right for *_, right in PAIRS)) >= 30
    docs = (Path(__file__).parents[2] / "docs" / "verification.md").read_text()
    rows = {line for line in docs.splitlines() if line.startswith("| `")}
    missing = [pair for pair in PAIRS if _PAIRS.row(*pair) not in rows]
    assert not missing


@given(st.integers(-(10**40), 10**40), st.integers(-5, 5))
def test_integers_are_exact(value: int, step: int) -> None:
    assert (grade(str(value + step), str(value)) == "correct") == (step == 0)


@given(st.integers(-999, 999), st.integers(1, 999), st.integers(-999, 999), st.integers(1, 999))
@settings(max_examples=50)
def test_fractions_are_exact(top: int, bottom: int, other: int, below: int) -> None:
    equal = top * below == other * bottom
    assert (grade(f"\\frac{{{other}}}{{{below}}}", f"{top}/{bottom}") == "correct") == equal


@given(st.integers(1, 99_999), st.integers(-300, 300))
@settings(max_examples=50)
def test_scientific_notation_in_all_spellings(mantissa: int, exponent: int) -> None:
    texts = [f"{mantissa}e{exponent}", f"{mantissa} \\times 10^{{{exponent}}}", f"{mantissa}\\cdot10^{{{exponent}}}"]
    values = {number.value for number in (literal(canonical(text)) for text in texts) if number is not None}
    assert len(values) == 1
    assert grade(texts[1], texts[0]) == "correct"
    assert grade(f"{mantissa}e{exponent + 1}", texts[0]) == "wrong"


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6), st.randoms())
@settings(max_examples=50)
def test_lists_in_any_order_but_complete(members: list[int], shuffler: object) -> None:
    shuffled = list(members)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    truth = ", ".join(map(str, members))
    assert grade(", ".join(map(str, shuffled)), truth) == "correct"
    assert grade(", ".join(map(str, members[1:])), truth) == "wrong"


@pytest.mark.parametrize("truth", ["{{{", "=", "  ", "\\,", "()"])
def test_ground_truth_that_says_nothing_is_named(truth: str) -> None:
    with pytest.raises(ValueError, match="the ground truth '"):
        grade("6", truth)


@pytest.mark.parametrize("answer", [None, "", "=", "?", "\\frac{", "6)+(", "x" * 20_000])
def test_unreadable_answers_are_unparsable(answer: str | None) -> None:
    assert grade(answer, "6") == "unparsable"

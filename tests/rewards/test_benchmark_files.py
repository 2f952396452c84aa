"""The verifier on the real benchmark files: right answers are right, wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.perturbations import KINDS, perturbed
from benchmarks.verification import ground_truths, judge
from verl_ext.rewards.verifiers import get

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"
needs_files = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no benchmark files in {FOLDER}")


@needs_files
@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("aime24", 30),
        ("aime25", 30),
        ("amc23", 40),
        pytest.param("math500", 500, marks=pytest.mark.slow),
        pytest.param("minerva_math", 272, marks=pytest.mark.slow),
        pytest.param("olympiadbench", 675, marks=pytest.mark.slow),
        pytest.param("DAPO-Math-17k", 17_398, marks=pytest.mark.slow),
    ],
)
def test_file(name: str, problems: int) -> None:
    truths = ground_truths(FOLDER / f"{name}.parquet")
    assert len(truths) == problems
    result = judge(truths, get("math_verify"), workers=2)
    assert result.exceptions == []
    refused, tried = sum(result.refused.values()), sum(result.tried.values())
    assert tried >= problems
    assert refused >= 0.99 * tried, result.accepted
    # A killed job refuses an answer too, but judges nothing.
    assert result.unjudged <= 0.01 * tried


@needs_files
@pytest.mark.parametrize("name", ["math500", "minerva_math", "olympiadbench"])
def test_every_ground_truth_in_a_box_is_correct(name: str) -> None:
    from verl_ext.rewards._grading import grade
    from verl_ext.rewards.answer_text import answer_of

    truths = ground_truths(FOLDER / f"{name}.parquet")
    wrong = [truth for truth in truths if grade(answer_of(f"\\boxed{{{truth}}}", truth), truth) != "correct"]
    assert wrong == []


@pytest.mark.parametrize(
    ("truth", "kinds"),
    [
        ("6", {"integer + 1": "7", "integer - 1": "5", "sign flipped": "-(6)"}),
        ("0", {"integer + 1": "1", "integer - 1": "-1"}),
        ("-\\frac{3}{2}", {"sign flipped": "\\frac{3}{2}", "fraction inverted": "-\\frac{2}{3}"}),
        ("\\{1,2\\}", {"member dropped": "\\{1\\}"}),
        ("1\\pm\\sqrt{19}", {}),
        ("8 \\%", {"sign flipped": "-(8 \\%)", "wrong unit": "8^{\\circ}"}),
        ("east", {}),
    ],
)
def test_perturbations_say_something_else(truth: str, kinds: dict[str, str]) -> None:
    assert dict(perturbed(truth)) == kinds
    assert set(kinds) <= set(KINDS)

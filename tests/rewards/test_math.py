"""The reward: five outcomes kept apart, the same keys always, and the control that pays by lot."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest

from verl_ext.rewards import verifiers
from verl_ext.rewards.math import OUTCOMES, close_pools, compute_score
from verl_ext.rewards.pool import ProcessPool
from verl_ext.rewards.verifiers import RULES
from verl_ext.toy.task import Order, problems, write

LONG_S = 60.0
KEYS = {"score", "acc", "outcome", "verified", "boxed", "verifier", *(f"outcome_{name}" for name in OUTCOMES)}


def score(solution: str, truth: str = "6", **options: object) -> dict[str, object]:
    return compute_score("test", solution, truth, **{"timeout_s": LONG_S, **options})  # type: ignore[arg-type]


def pids() -> set[int]:
    verifier = verifiers.get("math_verify")
    assert verifier.file is not None
    return set(verifiers.pool_for(verifier.file, verifier.function, 2).pids)


@pytest.mark.parametrize(
    ("solution", "truth", "outcome"),
    [
        ("4*2=8\n\n14-8=6\n\n\\boxed{6}", "6", "correct"),
        ("\\boxed{-3}", "-3", "correct"),
        ("\\boxed{06}", "6", "correct"),
        ("\\boxed{7} no, \\boxed{6}", "6", "correct"),
        ("\\boxed{\\frac{1}{2}}", "0.5", "correct"),
        ("x" * 5_000_000 + "\\boxed{6}", "6", "correct"),
        ("\\boxed{3}", "-3", "wrong"),
        ("\\boxed{6} no, \\boxed{7}", "6", "wrong"),
        ("the answer is 6", "6", "unparsable"),
        ("", "6", "unparsable"),
        ("\\boxed{}", "6", "unparsable"),
        ("\\boxed{6", "6", "unparsable"),
        ("\\boxed{6} and \\boxed{", "6", "unparsable"),
        ("\\boxed{=}", "6", "unparsable"),
        ("\\boxed{6}", "{{{", "error"),
    ],
)
def test_outcomes(solution: str, truth: str, outcome: str) -> None:
    result = score(solution, truth)
    assert result["outcome"] == outcome
    assert result["score"] == result["acc"] == float(outcome == "correct")
    assert result["verified"] == float(outcome in ("correct", "wrong"))
    assert {name: result[f"outcome_{name}"] for name in OUTCOMES} == {name: float(name == outcome) for name in OUTCOMES}


@pytest.mark.parametrize(
    ("solution", "boxed"),
    [("\\boxed{6}", 1.0), ("\\boxed{7}", 1.0), ("6", 0.0), ("\\boxed{6", 0.0), ("\\boxed{6} or \\boxed{", 1.0)],
)
def test_boxed_is_about_the_form_only(solution: str, boxed: float) -> None:
    result = score(solution)
    assert result["boxed"] == boxed
    assert set(result) == KEYS
    assert result["verifier"] == f"math-verify {version('math-verify')}, verl_ext {version('verl_ext')}/{RULES}"


def test_the_answer_format_is_the_rows_or_the_settings_and_is_recorded() -> None:
    line, boxed = "Answer: 6", "\\boxed{6}"
    said = {"answer_format": "answer_line"}
    assert [score(text, extra_info=said)["outcome"] for text in (line, boxed)] == ["correct", "unparsable"]
    assert [score(text, answer_format="answer_line")["outcome"] for text in (line, boxed)] == ["correct", "unparsable"]
    assert [score(text, extra_info={"answer_format": None})["outcome"] for text in (line, boxed)] == [
        "unparsable",
        "correct",
    ]
    assert str(score(line, extra_info=said)["verifier"]).endswith(f"/{RULES} answer_line")
    assert score(line, extra_info=said)["boxed"] == 0.0
    with pytest.raises(ValueError, match="'test': answer_format is 'boxed' where it is asked for, and 'answer_line'"):
        score(line, extra_info=said, answer_format="boxed")
    with pytest.raises(ValueError, match="'test': answer_format 'lines' is not known"):
        score(line, answer_format="lines")


def test_endless_computation_is_killed_and_the_next_answer_graded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endless = tmp_path / "endless.py"
    endless.write_text("def grade(answer, truth):\n    while answer == '7': pass\n    return 'correct'\n")
    pool = ProcessPool(endless, "grade", workers=1)
    monkeypatch.setattr(verifiers, "pool_for", lambda *_: pool)
    result = score("\\boxed{7}", timeout_s=0.5)
    assert (result["outcome"], result["score"], result["verified"]) == ("timeout", 0.0, 0.0)
    assert score("\\boxed{6}")["outcome"] == "correct"
    pool.close()


def test_crash_of_the_grader_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crashing = tmp_path / "crashing.py"
    crashing.write_text("import os\ndef grade(solution, truth):\n    os._exit(139)\n")
    pool = ProcessPool(crashing, "grade", workers=1)
    monkeypatch.setattr(verifiers, "pool_for", lambda *_: pool)
    result = score("\\boxed{6}")
    assert (result["outcome"], result["verified"]) == ("error", 0.0)
    assert set(result) == KEYS
    pool.close()


@pytest.mark.parametrize("truth", [None, "", "  ", 6])
def test_missing_ground_truth_is_a_fault_of_the_data(truth: object) -> None:
    with pytest.raises(ValueError, match=r"'test': reward_model\.ground_truth must be a non-empty string"):
        score("\\boxed{6}", truth)  # type: ignore[arg-type]


def test_grader_agrees_with_the_generator() -> None:
    for problem in problems("validation", 40, seed=5):
        assert score(problem.solution(), problem.answer)["outcome"] == "correct"
        left_to_right = score(write(problem.evaluate(Order.LEFT)), problem.answer)
        assert left_to_right["outcome"] == ("correct" if problem.easy else "wrong")


def test_control_pays_by_lot_and_tells_the_truth_beside() -> None:
    info = {"index": 4, "control_rate": 0.35, "control_salt": 1}
    results = [score(f"{n}\n\n\\boxed{{6}}", extra_info=info) for n in range(400)]
    # 400 draws at rate 0.35: mean 140, standard deviation 9.5; the bounds are five deviations away.
    assert 92 < sum(result["score"] for result in results) < 188  # type: ignore[misc]
    assert {result["acc"] for result in results} == {1.0}
    again = [score(f"{n}\n\n\\boxed{{6}}", extra_info=info) for n in range(20)]
    assert again == results[:20]
    wrong = [score(f"{n}\n\n\\boxed{{7}}", extra_info=info) for n in range(400)]
    assert 92 < sum(result["score"] for result in wrong) < 188  # type: ignore[misc]
    assert score("\\boxed{7}", extra_info={**info, "control_rate": 1.0})["score"] == 1.0
    assert score("\\boxed{6}", extra_info={**info, "control_rate": 0.0})["score"] == 0.0
    assert score("\\boxed{6}", extra_info={"index": 4})["score"] == 1.0


def test_forked_copy_starts_its_own_processes() -> None:
    score("\\boxed{6}")
    mine = pids()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = score("\\boxed{6}")["outcome"]
        shared = mine & pids()
        close_pools()
        os.write(writer, f"{outcome} {len(shared)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"correct 0"
    assert pids() == mine
    assert score("\\boxed{6}")["outcome"] == "correct"

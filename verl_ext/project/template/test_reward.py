"""The reward function by itself: `python -m pytest` in this folder, before a GPU hour is spent on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reward import ANSWER_FORMAT, OUTCOMES, compute_score

from verl_ext.data.ground_truths import answer_in
from verl_ext.rewards.answer_text import written

WRONG = "-271828182"


@pytest.mark.parametrize(
    ("response", "truth", "outcome"),
    [
        ("4*2=8\n\n3+8=11\n\n\\boxed{11}", "11", "correct"),
        ("The answer is 11.", "11", "correct"),
        ("first 11, no: \\boxed{12}", "11", "wrong"),
        ("\\boxed{12}, no: \\boxed{11}", "11", "correct"),
        ("12, no: 11", "11", "correct"),
        ("\\boxed{ -3 }", "-3", "correct"),
        ("\\boxed{0.5}", "\\frac{1}{2}", "correct"),
        ("I do not know", "11", "unparsable"),
        ("", "11", "unparsable"),
    ],
)
def test_outcomes(response: str, truth: str, outcome: str) -> None:
    result = compute_score("test", response, truth)
    assert result["outcome"] == outcome
    assert result["score"] == result["acc"] == float(outcome == "correct")
    assert result["verified"] == float(outcome != "unparsable")
    assert sum(result[f"outcome_{name}"] for name in OUTCOMES) == 1


def test_every_response_has_the_same_keys() -> None:
    assert compute_score("test", "", "1").keys() == compute_score("test", "1", "1").keys()


def test_an_example_without_a_ground_truth_is_an_error() -> None:
    with pytest.raises(ValueError, match="ground_truth"):
        compute_score("test", "1", " ")


def examples(split: str) -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_right_answer_to_every_example_earns_1_and_a_wrong_one_0(split: str) -> None:
    for number, example in enumerate(examples(split), start=1):
        truth = example["reward_model"]["ground_truth"]
        answer, _ = answer_in(truth)
        told = f"line {number}: a worked solution, of which the answer alone is a ground truth: {answer!r}"
        assert answer == truth.strip(), told
        for given, score in ((truth, 1.0), (WRONG, 0.0)):
            response = f"So we have it.\n{written(given, ANSWER_FORMAT)}"
            result = compute_score(example["data_source"], response, truth, example.get("extra_info"))
            fault = "the right answer is not accepted" if score else f"{WRONG} is accepted"
            assert result["score"] == score, f"line {number}: {fault}: {truth!r}"

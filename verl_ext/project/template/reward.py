r"""The reward of this project: change `answer_in` and `judge` to suit your task, and test_reward.py with them.

verl calls `compute_score` once for each response and learns from ``score``. The other keys are for people and for
methods: ``outcome`` says what happened (a response without an answer is no wrong answer), ``verified`` is 1.0 where
the answer could be judged, which ESPO's estimator reads, and ``acc`` is averaged in validation.

Every call returns the same keys, as verl requires. A fault of the data raises; a strange response never does.
"""

from __future__ import annotations

import re
from typing import Any

OUTCOMES = ("correct", "wrong", "unparsable")
_BOX = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def answer_in(response: str) -> str | None:
    r"""The answer that a response gives: what its last ``\boxed{...}`` holds, else its last number.

    Returns:
        None if there is neither.
    """
    found = _BOX.findall(response) or _NUMBER.findall(response)
    return found[-1].strip() if found else None


def judge(response: str, ground_truth: str) -> str:
    """One of `OUTCOMES`."""
    answer = answer_in(response)
    if answer is None:
        return "unparsable"
    return "correct" if answer == ground_truth.strip() else "wrong"


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **_: Any
) -> dict[str, Any]:
    """The reward of one response.

    Args:
        data_source: of the example.
        solution_str: the response, special tokens removed.
        ground_truth: ``reward_model.ground_truth`` of the example.
        extra_info: of the example.

    Raises:
        ValueError: if the example has no ground truth.
    """
    if not isinstance(ground_truth, str) or not ground_truth.strip():
        raise ValueError(f"an example of {data_source} has no reward_model.ground_truth; correct data/")
    outcome = judge(solution_str, ground_truth)
    correct = float(outcome == "correct")
    return {
        "score": correct,
        "acc": correct,
        "outcome": outcome,
        "verified": float(outcome != "unparsable"),
        **{f"outcome_{name}": float(outcome == name) for name in OUTCOMES},
    }

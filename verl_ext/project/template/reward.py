r"""The reward of this project: change `judge` to suit your task, and test_reward.py with it.

verl calls `compute_score` once for each response and learns from ``score``. The other keys are for people and for
methods: ``outcome`` says what happened (a response without an answer is no wrong answer), ``verified`` is 1.0 where
the answer could be judged, which ESPO's estimator reads, and ``acc`` is averaged in validation.

Every call returns the same keys, as verl requires. A fault of the data raises; a strange response never does.
"""

from __future__ import annotations

from typing import Any

from verl_ext.rewards import verifiers
from verl_ext.rewards.answer_text import AnswerFormat

OUTCOMES = verifiers.OUTCOMES
ANSWER_FORMAT: AnswerFormat = "auto"
r"""Where the answer stands: the last ``\boxed{...}``, else after "Answer:", else the last number.

``boxed``, ``answer_line`` and ``last_number`` accept one of these alone: a prompt that asks for a form may insist.
"""


def judge(response: str, ground_truth: str) -> str:
    """One of `OUTCOMES`: equal as mathematics (1/2 and 0.5), or the same words."""
    return verifiers.get("math_verify").grade(response, ground_truth, answer_format=ANSWER_FORMAT).outcome


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
        "verified": float(outcome in ("correct", "wrong")),
        **{f"outcome_{name}": float(outcome == name) for name in OUTCOMES},
    }

"""The reward of math problems: math-verify in a killable process, outcomes kept apart.

`compute_score` is a reward function for verl::

    reward.custom_reward_function.path=pkg://verl_ext.rewards.math
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.answer_format=answer_line

The last line is for data that do not say where their answers stand. verl puts the returned dictionary into
``reward_extra_info`` of the response; validation averages its numbers.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from verl_ext.rewards import verifiers
from verl_ext.rewards.answer_text import AnswerFormat, chosen_format
from verl_ext.rewards.verifiers import OUTCOMES, Outcome, close_pools

__all__ = ["OUTCOMES", "Outcome", "close_pools", "compute_score", "grade"]

logger = logging.getLogger(__name__)


def grade(solution: str, ground_truth: str, timeout_s: float = 5.0, workers: int = 2) -> tuple[Outcome, str]:
    """Outcome of one response and, for timeout and error, what happened; see `verifiers.Verifier.grade`."""
    graded = verifiers.get("math_verify").grade(solution, ground_truth, timeout_s, workers)
    return graded.outcome, graded.detail


def _control_score(solution: str, extra_info: dict[str, Any]) -> float:
    key = f"{extra_info['control_salt']}|{extra_info['index']}|{solution}"
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return float(draw < extra_info["control_rate"])


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    timeout_s: float = 5.0,
    workers: int = 2,
    answer_format: AnswerFormat | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
) -> dict[str, Any]:
    """Reward of one response: 1 if its answer equals the ground truth, else 0.

    Args:
        data_source: named in error messages.
        solution_str: the response, special tokens removed.
        ground_truth: the expected answer, for instance ``"-3"``.
        extra_info: the problem's extra information. With ``control_rate`` in it (the control data set of the
            demo), `score` is 1 with that probability, drawn by a hash of (control_salt, index, response): the
            same response always earns the same, and correctness plays no part. All other entries stay true.
        timeout_s: seconds after which the grading process is killed.
        workers: number of grading processes in this process.
        answer_format: where the answer stands: ``boxed``, ``answer_line``, ``last_number`` or ``auto``, see
            `verl_ext.rewards.answer_text`. None for the row's ``extra_info["answer_format"]``, ``boxed`` where the
            row says nothing.
        reward_router_address, reward_model_tokenizer: sent by verl where a reward model runs; not used.

    Returns:
        ``score`` (what is learnt from), ``acc`` (1.0 if correct), ``outcome`` (a name of `OUTCOMES`),
        ``verified`` (1.0 if the verifier could judge: correct or wrong), and ``outcome_<name>`` for each
        name, 1.0 for the one that happened; ``boxed`` (1.0 if the response has a closed box, the format rate of
        the papers) and ``verifier`` (name, version, and the answer format unless that is ``boxed``). The same keys
        for every response, as verl requires.

    Raises:
        ValueError: if the ground truth is not a non-empty string, or `answer_format` is unknown or not the row's; the
            data or the configuration are at fault, not the response.

    Example:
        >>> result = compute_score("demo", "4*2=8\\n\\n\\\\boxed{8}", "8")
        >>> result["score"], result["outcome"], result["verified"]
        (1.0, 'correct', 1.0)
    """
    if not isinstance(ground_truth, str) or not ground_truth.strip():
        raise ValueError(
            f"data source {data_source!r}: reward_model.ground_truth must be a non-empty string, "
            f"got {ground_truth!r}; correct the data set"
        )
    try:
        where = chosen_format(answer_format, (extra_info or {}).get("answer_format"))
    except ValueError as error:
        raise ValueError(f"data source {data_source!r}: {error}") from error
    verifier = verifiers.get("math_verify")
    graded = verifier.grade(solution_str, ground_truth, timeout_s, workers, where)
    outcome = graded.outcome
    if graded.detail:
        logger.warning("grading a response of %s ended in %s: %s", data_source, outcome, graded.detail)
    correct = float(outcome == "correct")
    control = extra_info is not None and extra_info.get("control_rate") is not None
    return {
        "score": _control_score(solution_str, extra_info) if extra_info and control else correct,
        "acc": correct,
        "outcome": outcome,
        "verified": float(outcome in ("correct", "wrong")),
        **{f"outcome_{name}": float(outcome == name) for name in OUTCOMES},
        "boxed": float(graded.boxed),
        "verifier": verifier.described(where),
    }

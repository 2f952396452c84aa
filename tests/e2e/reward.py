"""A reward for models that know nothing: about half of all responses are right, and one grading in five crashes."""

from __future__ import annotations

import zlib


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    if zlib.crc32(solution_str.encode()) % 5 == 0:
        raise RuntimeError("the grader crashed, as asked")
    return always_judged(data_source, solution_str, ground_truth, extra_info)


def always_judged(data_source, solution_str, ground_truth, extra_info=None, **_):
    """The same without crashes: every prompt keeps all its responses."""
    draw = zlib.crc32(solution_str.encode())
    right = float(draw % 2)
    outcome = "correct" if right else "wrong"
    if draw % 7 == 0:
        outcome = "timeout"
    return {"score": right, "acc": right, "outcome": outcome, "verified": outcome != "timeout"}

"""A reward for models that know nothing: about half of all responses are right, and one grading in five crashes."""

from __future__ import annotations

import zlib


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    draw = zlib.crc32(solution_str.encode())
    if draw % 5 == 0:
        raise RuntimeError("the grader crashed, as asked")
    right = float(draw % 2)
    outcome = "correct" if right else "wrong"
    if draw % 7 == 0:
        outcome = "timeout"
    return {"score": right, "acc": right, "outcome": outcome, "verified": outcome != "timeout"}

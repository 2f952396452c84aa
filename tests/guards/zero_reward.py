"""A reward function that reads answers in another form than the prompt asks for: none is ever right."""

from __future__ import annotations


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    return {"score": 0.0, "acc": 0.0, "outcome": "wrong", "verified": True}

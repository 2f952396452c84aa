"""Made runs: two steps' worth of numbers that are easy to check by hand, and their logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ACC = "val-core/verl_ext/demo/acc/mean@1"


def rows(reward: float = 0.25) -> dict[int, dict[str, Any]]:
    """Step -> metrics: the validation before training, and two steps of ESPO."""

    def step(number: int) -> dict[str, Any]:
        return {
            "critic/rewards/mean": reward * number,
            "actor/entropy": 0.5,
            "actor/pg_clipfrac": 0.1,
            "actor/pg_clipfrac_high": 0.04,
            "actor/pg_clipfrac_low": 0.06,
            "actor/grad_norm": 1.5,
            "actor/espo/group0/clip_high": 0.02,
            "actor/espo/group0/clip_low": 0.03,
            "actor/espo/group0/eps": 0.001,
            "actor/espo/group1/clip_high": 0.2,
            "actor/espo/group1/clip_low": 0.1,
            "actor/espo/group1/eps": 0.004,
            "reward/outcome/correct": 0.75,
            "reward/outcome/wrong": 0.25,
            "guards/nonfinite/values": 0 if number == 1 else 3,
            "training/rollout_log_probs_diff_max": 1e-5,
            "training/rollout_log_probs_diff_mean": 1e-6,
            "response_length/mean": 40.0,
            "timing_s/gen": 3.0,
            "timing_s/step": 4.0,
        }

    return {0: {ACC: 0.5}, 1: step(1), 2: {**step(2), ACC: 0.625}}


def log(path: Path, found: Mapping[int, Mapping[str, Any]]) -> Path:
    """A log as verl's file logger writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in found.items()))
    return path

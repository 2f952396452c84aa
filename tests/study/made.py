"""Results that no trainer made, for tests: every number is chosen by the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_ext.study.measures import Runs
from verl_ext.study.results import CURVES, Result

STEPS = 6
DEFAULTS = {"reward": 0.5, "entropy": 0.04, "grad_norm": 1.0, "response_length": 30.0, "seconds": 2.0}
PHASES = {"rollout": 1.0, "actor update": 0.5, "the rest": 0.5}


def result(
    method: str,
    seed: int = 1,
    model: str = "tiny_dense",
    accuracy: Sequence[float] = (0.4, 0.5, 0.6),
    phases: dict[str, float] | None = None,
    arguments: Sequence[str] = (),
    **curves: float | Sequence[float],
) -> Result:
    """A run of six steps with validation at 0, 3 and 6; a curve given as one number is constant."""
    series = {name: spread(curves.get(name, DEFAULTS.get(name, 0.0))) for name in CURVES}
    series["step"] = [float(step + 1) for step in range(STEPS)]
    return Result(
        study="cpu_study", model=model, method=method, seed=seed, steps=STEPS, arguments=tuple(arguments),
        commit="c" * 40,
        versions={"verl": "0.9.1"}, finished="2026-01-31T12:00:00Z", seconds=100.0, startup_seconds=40.0,
        validation={"step": [0, 3, 6], "accuracy": list(accuracy), "problems": 256}, curves=series,
        phases={name: [value] * STEPS for name, value in (phases or PHASES).items()},
    )  # fmt: skip


def spread(value: float | Sequence[float]) -> list[float]:
    """Six numbers."""
    return [float(value)] * STEPS if isinstance(value, int | float) else [float(one) for one in value]


def runs(method: str, seeds: Sequence[int] = (1, 2, 3), **per_seed: Sequence[Any]) -> Runs:
    """A method's runs; every keyword is a sequence with one entry a seed for `result`."""
    return Runs(
        "tiny_dense",
        method,
        tuple(
            result(method, seed, **{name: values[i] for name, values in per_seed.items()})
            for i, seed in enumerate(seeds)
        ),
    )

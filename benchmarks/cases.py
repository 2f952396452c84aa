"""What is measured, against what, and the limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import workload as wl
from benchmarks.workload import Step, Workload
from verl_ext.plugin import POLICY_LOSSES

BASELINE = "gspo"
# Losses of verl's that are measured as well, for a feeling of how much they differ among themselves.
OTHERS = ("vanilla",)
LIMITED = ("espo", "sspo", "tepo", "steer")
LOSS_LIMIT = 1.5
MEMORY_LIMIT = 8.0
SEGMENT_LIMIT = 10.0
ERPO_LIMIT = 15.0


@dataclass(frozen=True)
class Case:
    """`step` is measured against `baseline`; `limit` is the greatest ratio allowed, None for no limit."""

    what: str
    step: Step
    against: str
    baseline: Step
    limit: float | None = None


def loss_cases(workload: Workload) -> Iterator[Case]:
    """Every loss of this project and some of verl's, forward and backward."""
    baseline = wl.loss_step(BASELINE, workload)
    for name in POLICY_LOSSES:
        yield Case(name, wl.loss_step(name, workload), BASELINE, baseline, LOSS_LIMIT if name in LIMITED else None)
    for name in OTHERS:
        yield Case(f"verl's {name}", wl.loss_step(name, workload), BASELINE, baseline)


def controller_cases(workload: Workload) -> Iterator[Case]:
    """Fields that are computed once a batch and sent to the workers."""
    yield Case("ESPO's group ids", wl.group_step(workload), BASELINE, wl.loss_step(BASELINE, workload))
    least = wl.gather_and_cumsum_step(workload)
    yield Case("segment ids", wl.segment_step(workload), "gather and cumsum", least, SEGMENT_LIMIT)
    yield Case("SSPO's segment ids", wl.segment_step(workload), BASELINE, wl.loss_step(BASELINE, workload))


def estimator_cases(workload: Workload) -> Iterator[Case]:
    step = wl.erpo_step(workload)
    yield Case("erpo", step, "mean and std, valid tokens", wl.moments_step(workload), ERPO_LIMIT)
    yield Case("erpo", step, "torch.std_mean, all tokens", wl.unmasked_moments_step(workload))


def loss_steps(workload: Workload) -> dict[str, tuple[Step, float | None]]:
    """Name -> step and limit of memory, verl's losses first."""
    steps: dict[str, tuple[Step, float | None]] = {}
    for name in (BASELINE, *OTHERS):
        steps[f"verl's {name}"] = wl.loss_step(name, workload), None
    for name in POLICY_LOSSES:
        steps[name] = wl.loss_step(name, workload), MEMORY_LIMIT if name in LIMITED else None
    return steps

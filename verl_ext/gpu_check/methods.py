"""Losses and estimators on the GPU: against float64 on the CPU, and through the conformance battery.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verl_ext.conformance import cases, registry
from verl_ext.conformance import estimators as estimator_cases
from verl_ext.conformance.batches import Batch
from verl_ext.conformance.battery import examine_all
from verl_ext.conformance.cases import Case
from verl_ext.conformance.estimators import Estimator, EstimatorCase, Rows
from verl_ext.conformance.properties import Result
from verl_ext.conformance.subjects import Loss
from verl_ext.gpu_check.outcome import CheckError, demand

ROWS = 256
# Of two numbers: their size, and the size of the terms that they are sums of. float32 has 6e-8.
RELATIVE, ABSOLUTE = 1e-4, 2e-5
EXAMPLES = 10
# It counts transfers within a call, on tensors that it makes itself on the CPU: nothing to do with a device.
LEFT_OUT = ("host_syncs",)


class LossOn(Loss):
    """A loss whose calls are made on a device; what the battery hands in and gets back is on the CPU."""

    device = "cpu"

    def run(self, case: Case, batch: Batch | None = None, **arguments: Any) -> Result:
        """As in the base class."""
        result = super().run(case, moved(case.batch if batch is None else batch, self.device), **arguments)
        here = {name: getattr(result, name).cpu() for name in ("value", "gradient", "advantages")}
        return replace(result, **here, others={key: None if g is None else g.cpu() for key, g in result.others.items()})


class EstimatorOn(Estimator):
    """An estimator whose calls are made on a device."""

    device = "cpu"

    def call(self, options: Any, batch: Batch, prefix: str = "prompt") -> tuple[Tensor, Tensor]:
        """As in the base class."""
        advantages, returns = super().call(options, moved(batch, self.device), prefix)
        return advantages.cpu(), returns.cpu()


def moved(batch: Batch, device: str) -> Batch:
    """The batch on a device, gradients of nobody."""
    return batch.map(lambda _, tensor: tensor.to(device))


def subjects(kind: str, device: str) -> list[Any]:
    """Our methods of a kind, with their calls on the device."""
    from verl_ext.plugin import ESTIMATORS, POLICY_LOSSES

    base, ours = (LossOn, POLICY_LOSSES) if kind == "loss" else (EstimatorOn, ESTIMATORS)
    cls = type(base.__name__, (base,), {"device": device})
    registered = registry.registered(kind)
    return [cls(name, registered[name]) for name in ours]


def losses(device: str) -> dict[str, Any]:
    """Every loss, option and aggregation: float32 on the device, with and without autocast, against float64."""
    plain = {subject.name: subject for subject in subjects("loss", "cpu")}
    largest, calls, faults = 0.0, 0, []
    for subject in subjects("loss", device):
        demand(not subject.skip, f"{subject.name} cannot be called on {device}: {subject.skip}")
        batch = loss_batch(subject.name)
        for variant in subject.variants:
            for mode in subject.modes(variant):
                case = Case(variant, mode, {}, batch)
                wanted = plain[subject.name].run(case, doubled(batch))
                for autocast in (False, True):
                    context = torch.autocast(device, torch.bfloat16) if autocast else nullcontext()
                    with context:
                        found = subject.run(case, batch)
                    worst = max(excess(found.value, wanted.value), excess(found.gradient, wanted.gradient))
                    largest, calls = max(largest, worst), calls + 1
                    if worst > 1:
                        faults.append(f"{subject.name} {variant} {mode}{' under autocast' * autocast}: {worst:.1f}")
    if faults:
        raise CheckError("times the tolerance: " + "; ".join(faults[:20]))
    return {"calls": calls, "largest_share_of_tolerance": largest, "rows": ROWS}


def estimators(device: str) -> dict[str, Any]:
    """Every estimator and option: float32 on the device against float64."""
    plain = {subject.name: subject for subject in subjects("estimator", "cpu")}
    largest, calls, faults = 0.0, 0, []
    for subject in subjects("estimator", device):
        demand(not subject.skip, f"{subject.name} cannot be called on {device}: {subject.skip}")
        batch = estimator_batch(subject.name)
        for variant in subject.variants:
            case = EstimatorCase(variant, "", {}, batch)
            worst = excess(subject.run(case), plain[subject.name].run(case, doubled(batch)))
            largest, calls = max(largest, worst), calls + 1
            if worst > 1:
                faults.append(f"{subject.name} {variant}: {worst:.1f}")
    if faults:
        raise CheckError("times the tolerance: " + "; ".join(faults[:20]))
    return {"calls": calls, "largest_share_of_tolerance": largest, "rows": ROWS}


def excess(found: Tensor, wanted: Tensor) -> float:
    """The largest difference as a share of what is allowed; infinite where one side is not finite."""
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    allowed = RELATIVE * wanted.abs() + ABSOLUTE * max(float(wanted.abs().max()), 1.0)
    return float(((found.double() - wanted.double()).abs() / allowed).max())


def doubled(batch: Batch) -> Batch:
    """The batch in float64."""
    return batch.map(lambda _, tensor: tensor.double() if tensor.is_floating_point() else tensor)


def loss_batch(name: str) -> Batch:
    """Rows as the battery draws them, all at once."""
    return cases.decode(random_rows(name, cases._ROW_BYTES), cases.MAX_TOKENS, cases.WIDE, row_advantages=True)


def estimator_batch(name: str) -> Batch:
    """Rows as the battery draws them, all at once."""
    return estimator_cases.decode(
        random_rows(name, estimator_cases._ROW_BYTES), estimator_cases.MAX_TOKENS, Rows(equal_rewards=False)
    )


def random_rows(name: str, size: int) -> list[bytes]:
    """The bytes that rows are made of."""
    generator = random.Random(name)
    return [generator.randbytes(size) for _ in range(ROWS)]


def conformance(device: str) -> dict[str, Any]:
    """The battery, with our methods' calls on the device."""
    cells, faults = 0, []
    for kind in ("loss", "estimator"):
        columns = {key: prop for key, prop in registry.KINDS[kind].columns.items() if key not in LEFT_OUT}
        for row in examine_all(subjects(kind, device), columns, EXAMPLES):
            demand(not row.subject.skip, f"{row.subject.name} cannot be called on {device}: {row.subject.skip}")
            cells += len(row.cells)
            faults += [f"{row.subject.name} {key}: {cell.message}" for key, cell in row.failures.items()]
    if faults:
        raise CheckError("; ".join(faults))
    return {"cells": cells, "examples": EXAMPLES}

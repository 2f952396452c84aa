"""Properties about what happens off-policy, against the clip form that a loss declares."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from verl_ext.conformance.batch_properties import LOSS_PROPERTIES
from verl_ext.conformance.batches import Batch, in_words
from verl_ext.conformance.cases import FAR, NEAR, Case, Recipe
from verl_ext.conformance.objective_properties import token_weights
from verl_ext.conformance.properties import Result, Violation, close, given, terms
from verl_ext.conformance.subjects import MODES, Loss

# A log-ratio nearer to a bound may be taken for either side of it.
MARGIN = 1e-3


@LOSS_PROPERTIES.column("off- policy", Recipe(NEAR, weighted=False, uniform=True), 0.6)
def off_policy(loss: Loss, case: Case) -> None:
    """Where the ratio lies between the bounds of the declared clip form, the value is that of the form, aggregated,
    and the gradient, summed over each row, that of the value, for both signs of the advantage. The tokens of a row are
    alike, so that ratios of tokens, segments and sequences are the same number. Any of verl's aggregations is accepted.
    """
    _as_declared(loss, case, beyond=False)


@LOSS_PROPERTIES.column("clip- ping", Recipe(FAR, weighted=False, uniform=True), 0.6)
def clipping(loss: Loss, case: Case) -> None:
    """The same where the ratio lies beyond the lower or the upper bound of the declared clip form: for PPO's the value
    stays at the bound and the gradient is 0 on one side for each sign of the advantage, and neither on the other side.
    """
    _as_declared(loss, case, beyond=True)


def _as_declared(loss: Loss, case: Case, beyond: bool) -> None:
    """Compare value and gradient on the rows that lie on one side of a bound; the others are masked."""
    sides = [loss.declared_objective(case, _moved(case.batch, step))[2] for step in (-MARGIN, 0.0, MARGIN)]
    chosen = torch.stack([side == beyond for side in sides]).all(dim=0) & case.batch.mask
    if not chosen.any():
        return
    case = replace(case, batch=case.batch.replace(response_mask=chosen))
    with given(case):
        result = loss.run(case)
        objective, gradient, _ = loss.declared_objective(case, case.batch)
        wanted = {mode: _aggregated(case.batch, mode, objective, gradient) for mode in (case.mode, *MODES)}
        if not any(_fits(result, *reference) for reference in wanted.values()):
            _tell(result, *wanted[case.mode], "beyond a bound" if beyond else "between the bounds")


def _moved(batch: Batch, step: float) -> Batch:
    return batch.replace(log_prob=batch["log_prob"] + step)


def _aggregated(batch: Batch, mode: str, objective: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The value of a loss with this objective, and its gradient summed over each row, [B]."""
    weights = token_weights(mode, batch) * batch.mask
    return -(objective * weights).sum(), -(gradient * weights).sum(dim=-1)


def _fits(result: Result, value: Tensor, gradient: Tensor) -> bool:
    rows = result.gradient.sum(dim=-1)
    return close(result.value, value, terms(result, 1.0)) and close(rows, gradient, gradient.abs().max())


def _tell(result: Result, value: Tensor, gradient: Tensor, where: str) -> None:
    rows = in_words(result.gradient.sum(dim=-1))
    raise Violation(
        f"{where}: the loss is {in_words(result.value)} and its gradient, summed over each row, {rows}, instead of "
        f"{in_words(value)} and {in_words(gradient)}, as its clip form has it"
    )

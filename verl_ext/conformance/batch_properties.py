"""Properties about what a batch is made of: cuts, padding, order, what stands behind the mask, rows that are empty."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from verl_ext.conformance.batches import MASK, Batch, in_words
from verl_ext.conformance.cases import EXTREME, Case, Recipe
from verl_ext.conformance.properties import (
    OPTION,
    STYLE,
    Result,
    Table,
    Violation,
    expect,
    given,
    same,
    same_gradient,
    same_value,
)
from verl_ext.conformance.subjects import Loss, in_one_line

LOSS_PROPERTIES = Table()

GARBAGE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e30": 1e30}
# Ids that no row of these batches has; the last two lie outside of every tensor.
GARBAGE_IDS = {"nan": 1, "inf": 10**6, "-inf": -7, "1e30": 5}


@LOSS_PROPERTIES.column("micro batch", Recipe(), 0.6)
def micro_batches(loss: Loss, case: Case) -> None:
    """The mini-batch, split over 1, 2 or 4 data-parallel ranks and cut on each into micro-batches of 1 row, 2 rows or
    all rows, gives the value and the gradient of the uncut one. As verl does it: each call knows `dp_size`,
    `batch_num_tokens` and `global_batch_size` of the whole mini-batch, losses are summed over micro-batches and
    averaged over ranks.
    """
    whole = loss.run(case)
    # verl splits a mini-batch evenly, so fewer rows than ranks are not split.
    for ranks in (n for n in (1, 2, 4) if case.batch.rows % n == 0):
        per_rank = case.batch.rows // ranks
        for size in sorted({1, min(2, per_rank), per_rank}):
            normalisers = case.batch.normalisers(ranks)
            # A micro-batch without valid tokens is the business of another column; here it adds nothing.
            parts = [
                loss.run(case, part, normalisers=normalisers) if part.mask.any() else _nothing(part)
                for part in _cut(case.batch, per_rank, size)
            ]
            where = f"cut into micro-batches of {size} on {ranks} rank{'s' * (ranks > 1)}"
            value = torch.stack([part.value.double() for part in parts]).sum() / ranks
            same_value(where, value, whole)
            gradient = torch.cat([part.gradient for part in parts]) / ranks
            same_gradient(where, gradient, whole.gradient, whole.advantages)


def _cut(batch: Batch, per_rank: int, size: int) -> Iterator[Batch]:
    """Micro-batches of `size` rows; none spans two ranks."""
    for first in range(0, batch.rows, per_rank):
        for start in range(first, first + per_rank, size):
            yield batch.take(slice(start, min(start + size, first + per_rank)))


def _nothing(batch: Batch) -> Result:
    zeros = torch.zeros_like(batch["log_prob"])
    return Result(torch.zeros(()), zeros, {}, True, zeros, {})


@LOSS_PROPERTIES.column("pad ding", Recipe())
def padding(loss: Loss, case: Case) -> None:
    """1 or 3 further masked columns on the right change neither the value nor the gradient, and have none.
    `loss_scale_factor` is set, as the default divisor of `seq-mean-token-sum-norm` is the padded width.
    """
    width = case.batch.mask.shape[1]
    narrow = loss.run(case)
    for columns in (1, 3):
        wide = loss.run(case, case.batch.widened(columns))
        where = f"with {columns} masked columns appended"
        same_value(where, wide.value, narrow)
        same_gradient(where, wide.gradient[:, :width], narrow.gradient, narrow.advantages)
        there = wide.gradient[:, width:]
        expect(not there.any(), f"{where}: the gradient there is {in_words(there)}")


@LOSS_PROPERTIES.column("row order", Recipe())
def row_order(loss: Loss, case: Case) -> None:
    """Permuted rows (reversed, rotated) give the same value, and the gradient permuted in the same way."""
    rows = list(range(case.batch.rows))
    straight = loss.run(case)
    for order in (rows[::-1], rows[1:] + rows[:1]):
        permuted = loss.run(case, case.batch.take(order))
        where = f"rows in the order {order}"
        same_value(where, permuted.value, straight)
        same_gradient(where, permuted.gradient, straight.gradient[order], straight.advantages)


@LOSS_PROPERTIES.column("masked tokens", Recipe(), grade=STYLE)
def masked_tokens(loss: Loss, case: Case) -> None:
    """Whatever stands where the mask is 0 (NaN, infinities, 1e30, ids that do not exist), in all tensors,
    `rollout_is_weights` and the token context included, value, gradient and metrics stay the same, and the gradient
    there is 0.
    """
    names = [name for name in case.batch.tensors if name != MASK]
    clean = loss.run(case)
    for garbage in GARBAGE:
        together = _influence(loss, case, clean, garbage, names)
        if together:
            # The report names one tensor, if one is enough.
            single = (_influence(loss, case, clean, garbage, [name]) for name in names)
            raise next(filter(None, single), together)


def _influence(loss: Loss, case: Case, clean: Result, garbage: str, names: list[str]) -> Violation | None:
    """What changes when garbage stands behind the mask of these tensors, or None."""
    hidden = ~case.batch.mask

    def soil(name: str, tensor: Tensor) -> Tensor:
        values = GARBAGE if tensor.is_floating_point() else GARBAGE_IDS
        return tensor.masked_fill(hidden, values[garbage]) if name in names else tensor

    where = f"with {garbage} behind the mask of {names[0] if len(names) == 1 else 'every tensor'}"
    dirty = replace(case, batch=case.batch.map(soil))
    try:
        with given(dirty, STYLE):
            soiled = loss.run(dirty)
            same(where, soiled, clean)
            text = f"{where}: the metrics are {soiled.metrics} instead of {clean.metrics}"
            expect(repr(soiled.metrics) == repr(clean.metrics), text)
            there = soiled.gradient[hidden]
            expect(not there.any(), f"{where}: the gradient there is {in_words(there)}")
    except Violation as violation:
        return violation
    return None


@LOSS_PROPERTIES.column("empty rows", Recipe())
def empty_rows(loss: Loss, case: Case) -> None:
    """Where the first row, a whole micro-batch, or the whole mini-batch (its `batch_num_tokens` is then 0) is masked,
    value and gradient are finite, the gradient of masked rows is 0, and the loss is still attached to the graph, so
    that `backward` runs.
    """
    everything = slice(None)
    for masked, rows in (("a row", slice(0, 1)), ("a micro-batch", everything), ("the mini-batch", everything)):
        mask = case.batch.mask.clone()
        mask[rows] = False
        emptied = case.batch.replace(response_mask=mask)
        # A row or micro-batch without tokens belongs to a mini-batch that has some: those of the case as drawn.
        outer = emptied if masked == "the mini-batch" else case.batch
        where = f"with {masked} fully masked"
        # verl makes such a mini-batch where a correction rejects every token, and skips an update that is not finite.
        with given(replace(case, batch=emptied), OPTION if masked == "the mini-batch" else ""):
            try:
                result = loss.run(case, emptied, normalisers=outer.normalisers())
            except Exception as error:
                raise Violation(f"{where}: it raises {in_one_line(error)}") from error
            expect(result.attached, f"{where}: the loss has no graph, and backward() raises")
            _finite(where, result)
            there = result.gradient[rows]
            expect(not there.any(), f"{where}: the gradient of masked rows is {in_words(there)}")


@LOSS_PROPERTIES.column("ex- treme", Recipe(EXTREME))
def extreme_values(loss: Loss, case: Case) -> None:
    """Value and gradient are finite where log-ratios are +-50, and where log-probs are -inf behind the mask: log_prob,
    old_log_prob, or both.
    """
    hidden = ~case.batch.mask
    greatest = (case.batch["log_prob"] - case.batch["old_log_prob"])[case.batch.mask].abs().max()
    for names in ((), ("log_prob",), ("old_log_prob",), ("log_prob", "old_log_prob")):
        batch = case.batch.replace(**{name: case.batch[name].masked_fill(hidden, -math.inf) for name in names})
        behind = f", -inf behind the mask of {' and '.join(names)}" if names else ""
        with given(replace(case, batch=batch), STYLE if names else ""):
            _finite(f"log-ratios of at most {greatest:.4g}{behind}", loss.run(case, batch))


def _finite(where: str, result: Result) -> None:
    for what, tensor in (("loss", result.value), ("gradient", result.gradient)):
        expect(bool(torch.isfinite(tensor).all()), f"{where}: the {what} is {in_words(tensor)}")

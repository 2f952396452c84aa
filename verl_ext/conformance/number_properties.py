"""Properties about numbers and execution: precision, determinism, metrics, transfers to the host."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import torch

from verl_ext.conformance.batch_properties import LOSS_PROPERTIES
from verl_ext.conformance.batches import Batch, in_words
from verl_ext.conformance.cases import EXTREME, WIDE, Case, Recipe, plain_batch
from verl_ext.conformance.properties import OPTION, STYLE, TRAINING, Violation, expect, given, same, same_value
from verl_ext.conformance.subjects import Loss
from verl_ext.conformance.tracing import TransferLog

# Relative rounding of the format. Autograd hands a gradient back in it, and may add two paths up in it.
DTYPES = {"bfloat16": (torch.bfloat16, 2**-8), "float16": (torch.float16, 2**-11)}


@LOSS_PROPERTIES.column("low prec.", Recipe(), grade=OPTION)
def low_precision(loss: Loss, case: Case) -> None:
    """Inputs in bfloat16 or float16 are computed in float32: value and gradient are those of the same inputs cast to
    float32 before the call (the gradient up to its own rounding to the inputs' format). Float32 inputs give the same
    under `torch.autocast` to bfloat16 as without.
    """
    for name, (dtype, step) in DTYPES.items():
        low = case.batch.cast(dtype)
        wanted = loss.run(case, low.cast(torch.float32))
        with given(replace(case, batch=low), OPTION):
            got = loss.run(case, low)
        where = f"inputs in {name}"
        size = wanted.gradient.double().abs()
        error = (got.gradient.double() - wanted.gradient.double()).abs()
        allowed = step * (2 * size + size.max()) + 1e-7  # float16 has steps of 6e-8 at least
        text = f"the gradient is {in_words(got.gradient)} instead of {in_words(wanted.gradient)}"
        with given(replace(case, batch=low)):
            same_value(where, got.value, wanted)
            expect(bool((error <= allowed).all()), f"{where}: {text}")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss.run(case)
    same("under autocast", cast, loss.run(case))


@LOSS_PROPERTIES.column("deter- minism", Recipe(), 2.0, STYLE)
def determinism(loss: Loss, case: Case) -> None:
    """The same tensors give exactly the same value, gradient and metrics when the loss is called again, whatever the
    state of the global random number generators of torch, numpy and Python; and the call leaves the tensors as they
    are.
    """
    tensors = case.batch.map(lambda _, tensor: tensor.clone())
    results = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global generator is what is tested
        random.seed(seed)
        leaf = tensors["log_prob"].detach().requires_grad_()
        value, metrics = loss.call(case.variant, case.mode, tensors.replace(log_prob=leaf), tensors.normalisers())
        value.backward() if value.requires_grad else None
        results.append((value.detach(), torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, metrics))
    (value, gradient, metrics), (again, gradient_again, metrics_again) = results
    where = "called again with another state of the random number generators"
    for name, tensor in tensors.tensors.items():
        expect(torch.equal(tensor, case.batch[name]), f"the loss changes its input {name}", TRAINING)
    expect(_equal(again, value), f"{where}: the loss is {in_words(again)} instead of {in_words(value)}")
    expect(
        _equal(gradient_again, gradient),
        f"{where}: the gradient is {in_words(gradient_again)} instead of {in_words(gradient)}",
    )
    expect(repr(metrics_again) == repr(metrics), f"{where}: the metrics are {metrics_again} instead of {metrics}")


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


@LOSS_PROPERTIES.column("met- rics", Recipe((*WIDE, *EXTREME)), grade=STYLE)
def metrics(loss: Loss, case: Case) -> None:
    """The metrics are finite Python numbers (no tensors, no None), under the same keys whatever the data: verl fails
    where a micro-batch lacks a key. Data includes log-ratios of +-50 and a micro-batch without valid tokens.
    """
    normalisers = case.batch.normalisers()
    usual = loss.run(case, _like(case.batch, plain_batch())).metrics
    nothing = case.batch.replace(response_mask=torch.zeros_like(case.batch.mask))
    for where, batch in (("", case.batch), ("with a micro-batch fully masked: ", nothing)):
        with given(replace(case, batch=batch)):
            found = loss.run(case, batch, normalisers=normalisers).metrics
            _check_metrics(where, found, usual)


def _check_metrics(where: str, found: object, usual: dict[str, object]) -> None:
    if not isinstance(found, dict):
        raise Violation(f"{where}the second result is a {type(found).__name__}, not a dict")
    missing, further = sorted(usual.keys() - found.keys()), sorted(found.keys() - usual.keys())
    text = f"other keys than for a plain batch: missing {missing}, further {further}"
    expect(not missing and not further, f"{where}{text}", TRAINING)  # verl fails
    bad = {key: value for key, value in found.items() if not _plain(value)}
    expect(not bad, f"{where}not finite Python numbers: {bad}")


def _plain(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _like(batch: Batch, other: Batch) -> Batch:
    """`other` with the fields that `batch` has."""
    return other.without(*(other.tensors.keys() - batch.tensors.keys()))


@LOSS_PROPERTIES.column("host syncs", Recipe(), 0.25, STYLE)
def host_syncs(loss: Loss, case: Case) -> None:
    """The forward pass moves data from the device to the host at most once (`metrics` stacked and moved together). On
    a GPU each transfer makes the host wait. Counted: item, tolist, cpu, numpy, float(), bool(), if, nonzero, indexing
    by a mask, and others whose result has a size that depends on the data.
    """
    batch = case.batch.replace(log_prob=case.batch["log_prob"].clone().requires_grad_())
    normalisers = batch.normalisers()
    with TransferLog() as log:
        loss.call(case.variant, case.mode, batch, normalisers)
    expect(len(log.seen) <= 1, f"{len(log.seen)} transfers: {log.summary()}")

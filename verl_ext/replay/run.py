"""A replay from request to result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verl_ext import modules
from verl_ext.replay import model as models
from verl_ext.replay.dump import Dump, Selection, load
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.inputs import prepare
from verl_ext.replay.measure import Measured, cosines, gram, high_entropy_tokens, measure, share
from verl_ext.replay.subjects import Subject, build

SUFFIXES = (".png", ".html")
BINS = 10


@dataclass(frozen=True)
class Request:
    """What is to be replayed; the options of `verl-ext view losses`."""

    path: Path
    losses: Sequence[str]
    settings: Sequence[str] = ()
    imports: Sequence[str] = ()
    model: Path | None = None
    tokenizer: Path | None = None
    vocab_size: int | None = None
    temperature: float = 1.0
    top: float = 0.2
    selection: Selection = field(default_factory=Selection)
    out: Path | None = None


@dataclass(frozen=True)
class Replay:
    """A finished replay.

    Attributes:
        dump: the rows, with the model's log-probs and entropies where there was a model.
        subjects: the losses, L of them.
        measured: one for each.
        norms: [L], of the gradients.
        cosine: [L, L], NaN where a gradient is 0.
        by_parameters: whether norms and cosines are those of parameters, not of log-probs.
        top: share of tokens that count as of high entropy.
        notes: what a reader of the figures should know.
    """

    dump: Dump
    subjects: Sequence[Subject]
    measured: Sequence[Measured]
    norms: Tensor
    cosine: Tensor
    by_parameters: bool
    top: float
    notes: Sequence[str]

    def top_share(self, measured: Measured) -> float | None:
        """Share of |dloss/dlog-prob| on the tokens of highest entropy; None without entropies."""
        entropy = self.dump.tensors.get("old_entropy")
        return (
            None
            if entropy is None
            else share(measured.gradient, high_entropy_tokens(entropy, self.dump.mask, self.top))
        )

    def profile(self, measured: Measured) -> tuple[list[float], list[float]] | None:
        """Mean entropy of each tenth of the tokens, ordered by entropy, and its share of |dloss/dlog-prob|."""
        entropy = self.dump.tensors.get("old_entropy")
        if entropy is None:
            return None
        mask = self.dump.mask
        order = entropy[mask].argsort(stable=True)
        sizes = measured.gradient[mask].abs()[order]
        parts = zip(entropy[mask][order].tensor_split(BINS), sizes.tensor_split(BINS), strict=True)
        found = [(float(nats.mean()), float(size.sum() / sizes.sum())) for nats, size in parts if len(nats)]
        return [nats for nats, _ in found], [part for _, part in found]


def replay(request: Request) -> Replay:
    """Put one dump through several losses.

    Raises:
        ReplayError: with every fault that can be seen before the losses are called.
    """
    faults = [*_option_faults(request), *_import_faults(request)]
    steps: dict[str, Callable[[], Any]] = {
        "dump": lambda: load(request.path, request.selection),
        "subjects": lambda: build(request.losses, request.settings),
        "policy": lambda: models.load(request.model, request.temperature) if request.model else None,
        "tokenizer": lambda: models.load_tokenizer(request.tokenizer) if request.tokenizer else None,
    }
    found: dict[str, Any] = {}
    for name, step in steps.items():
        try:
            found[name] = step()
        except ReplayError as error:
            faults += error.faults
    dump, subjects = found.get("dump"), found.get("subjects", [])
    policy, tokenizer = found.get("policy"), found.get("tokenizer")
    if dump is not None and policy is not None:
        faults += models.faults(dump, policy)
    if faults or dump is None:
        raise ReplayError(faults)
    notes: list[str] = list(dump.notes)
    if policy is not None:
        dump, notes = _with_model(dump, policy)
        tokenizer = tokenizer or policy.tokenizer
    vocab_size = request.vocab_size or (policy.vocab_size if policy else None)
    prepared = prepare(dump, subjects, tokenizer, vocab_size)
    measured = [measure(one, dump) for one in prepared]
    products = _products(dump, measured, policy)
    for one in prepared:
        notes += [*one.subject.notes, *one.notes]
    return Replay(
        dump, subjects, measured, products.diagonal().sqrt(), cosines(products), policy is not None, request.top, notes
    )


def _option_faults(request: Request) -> list[str]:
    found = [] if 0 < request.top < 1 else [f"--top {request.top:g}: it is a share, between 0 and 1"]
    found += [] if request.temperature > 0 else [f"--temperature {request.temperature:g}: it is above 0"]
    if request.vocab_size is not None and request.vocab_size < 2:
        found.append(f"--vocab-size {request.vocab_size}: it is at least 2")
    if request.out is not None and request.out.suffix not in SUFFIXES:
        found.append(f"--out {request.out}: its name ends in {' or '.join(SUFFIXES)}")
    return found


def _import_faults(request: Request) -> list[str]:
    try:
        modules.load(request.imports)
    except modules.ModuleError as error:
        return [f"--import: {error}"]
    return []


def _with_model(dump: Dump, policy: models.Policy) -> tuple[Dump, list[str]]:
    """The dump as this model sees it, and how far it is from the file's own log-probs."""
    seen = policy.values(dump)
    notes = [note for note in dump.notes if "no log_probs" not in note]
    distance = (seen.tensors["log_prob"] - dump.tensors["old_log_prob"])[dump.mask].abs()
    notes.append(
        f"log-probs and entropies are the model's, at temperature {policy.temperature:g}: |log ratio| to the old "
        f"policy {float(distance.mean()):.2g} on average, {float(distance.max()):.2g} at most"
    )
    return seen, notes


def _products(dump: Dump, measured: Sequence[Measured], policy: models.Policy | None) -> Tensor:
    """Scalar products of the losses' gradients, [L, L]."""
    weights = [one.gradient for one in measured]
    if policy is None:
        return gram(weights)
    gradients = policy.gradients(dump, weights)
    total = torch.zeros(len(weights), len(weights), dtype=torch.float64)
    for parts in zip(*gradients, strict=True):
        total += gram(parts).cpu()
    return total

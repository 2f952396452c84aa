"""What each loss is given: the dump's tensors, with group and segment ids made as a run's controller makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from verl_ext.context import TokenContext
from verl_ext.replay.dump import MASK, SOURCES, Dump
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.subjects import Subject

# Field of the context -> what a person can do about it.
REMEDIES = {
    "vocab_size": "give --vocab-size, or --model",
    "segment_ids": "give --tokenizer with the model's folder, so that they can be made from the responses",
    "entropy": "use an export of a run with actor.calculate_entropy=True, or give --model",
}


@dataclass(frozen=True)
class Prepared:
    """A subject with its token data.

    Attributes:
        subject: the loss.
        context: its token data.
        notes: where ids come from, if that is worth saying.
    """

    subject: Subject
    context: TokenContext
    notes: tuple[str, ...] = ()


def prepare(
    dump: Dump, subjects: Sequence[Subject], tokenizer: Any = None, vocab_size: int | None = None
) -> list[Prepared]:
    """The token data of every loss.

    Args:
        dump: the rows.
        subjects: the losses.
        tokenizer: of the model, for segments.
        vocab_size: V, in place of what the file says.

    Raises:
        ReplayError: naming every field that some loss needs and does not get.
    """
    known: dict[str, Any] = {name: dump.tensors[name] for name in _names() if name in dump.tensors}
    known["vocab_size"] = vocab_size or dump.vocab_size
    prepared: list[Prepared] = []
    lacking: dict[str, list[str]] = {}
    for subject in subjects:
        ids, notes = _ids(dump, subject, tokenizer)
        context = TokenContext(**{**known, **ids})
        needed = subject.method.needed(subject.actor.policy_loss) if subject.method else ()
        for name in needed:
            if getattr(context, name) is None:
                lacking.setdefault(name, []).append(subject.label)
        prepared.append(Prepared(subject, context, tuple(notes)))
    if lacking:
        raise ReplayError([_lack(name, labels) for name, labels in lacking.items()])
    return prepared


def _names() -> set[str]:
    return {field.name for field in fields(TokenContext)} & {*SOURCES}


def _lack(name: str, labels: Sequence[str]) -> str:
    columns = " or ".join(SOURCES.get(name, (name,)))
    remedy = f"; {REMEDIES[name]}" if name in REMEDIES else ""
    return f"{' and '.join(labels)}: the file has no {columns}{remedy}"


def _ids(dump: Dump, subject: Subject, tokenizer: Any) -> tuple[Mapping[str, Tensor], list[str]]:
    """The field that a run's controller would send with this loss, and where it comes from.

    Entropy groups are always made anew: two losses that group tokens have the same column for different things.
    """
    method = subject.method
    if method is None or method.prepares is None:
        return {}, []
    from verl_ext.plugin import PreparationData

    hyper = method.resolve(subject.actor.policy_loss)
    in_file = dump.tensors.get(method.prepares)
    if method.prepares == "segment_ids":
        if in_file is not None and _same_delimiter(dump, hyper):
            return {"segment_ids": in_file}, []
        if tokenizer is None or "responses" not in dump.tensors:
            note = f"{subject.label}: the segments are those of the file, whatever delimiter it was written with"
            return ({}, []) if in_file is None else ({"segment_ids": in_file}, [note])
    responses = dump.tensors.get("responses", torch.zeros(dump.mask.shape, dtype=torch.long))
    data = PreparationData(responses, dump.tensors[MASK], dump.tensors.get("old_entropy"), tokenizer)
    made = method.prepare(data, **hyper)
    return ({} if made is None else {method.prepares: made}), []


def _same_delimiter(dump: Dump, hyper: Mapping[str, Any]) -> bool:
    written = (dump.about.get("hyper_parameters") or {}).get("delimiter")
    return written is not None and written == hyper.get("delimiter")

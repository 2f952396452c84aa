"""What `verl-ext doctor gpu` does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from verl_ext.gpu_check.harness import run_all
from verl_ext.gpu_check.machine import Machine, look
from verl_ext.gpu_check.outcome import FAILED, OK, Outcome
from verl_ext.gpu_check.table import CHECKS, unknown

STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


@dataclass(frozen=True)
class Request:
    """The command's arguments.

    Attributes:
        out: the JSON file; None for the standard output alone.
        only: names of checks; all of them if empty.
        logs: folder of the logs; a temporary one if None.
        device: `cuda`. `cpu` tries out the checks that can be made there, for tests.
    """

    out: Path | None = None
    only: Sequence[str] = ()
    logs: Path | None = None
    device: str = "cuda"


def run(request: Request, console: Console | None = None) -> int:
    """Check, print, write the JSON, and return the exit status.

    Returns:
        0 if no check failed and one at least was made, else 1: without a GPU nothing was shown. 2 for an unknown name.
    """
    console = console or Console(stderr=True, soft_wrap=True, highlight=False)
    faults = unknown(list(request.only))
    if faults:
        console.print(*faults, sep="\n", markup=False)
        return 2
    checks = [check for name, check in CHECKS.items() if not request.only or name in request.only]
    machine = look()
    for gpu in machine.gpus:
        console.print(f"{gpu['name']}, {gpu['memory_gib']} GiB", markup=False)
    if request.device == "cuda" and not machine.gpus:
        console.print(f"no GPU: {machine.why_none}; every check is skipped", markup=False)
    logs = request.logs or Path(tempfile.mkdtemp(prefix="verl-ext-gpu-check-"))
    outcomes = run_all(checks, machine, request.device, logs, lambda outcome: show(outcome, console))
    text = json.dumps(as_data(machine, outcomes, request.device), indent=1)
    if request.out is None:
        print(text)
    else:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        request.out.write_text(text + "\n", encoding="utf-8")
        console.print(f"written: {request.out}", markup=False)
    statuses = [outcome.status for outcome in outcomes]
    return 0 if OK in statuses and FAILED not in statuses else 1


def show(outcome: Outcome, console: Console) -> None:
    """One line, and what was wrong."""
    console.print(f"{outcome.status:8}", style=STYLES[outcome.status], end="")
    console.print(f"{outcome.name:16}{outcome.seconds:7.1f} s  {outcome.why or brief(outcome.figures)}", markup=False)


def brief(figures: dict[str, Any]) -> str:
    """The figures that fit on a line."""
    plain = {key: value for key, value in figures.items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in plain.items()
    )


def as_data(machine: Machine, outcomes: Sequence[Outcome], device: str) -> dict[str, Any]:
    """The result as plain data."""
    return {
        "format": 1,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "machine": asdict(machine),
        "checks": [{**asdict(outcome), "says": CHECKS[outcome.name].says} for outcome in outcomes],
    }

"""Runs checks one after another, each in a process family of its own with a time limit."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from verl_ext.gpu_check.machine import Machine
from verl_ext.gpu_check.outcome import FAILED, SKIPPED, Outcome
from verl_ext.gpu_check.table import Check
from verl_ext.process import ProcessFamily, child_environment, stop_signals_raise

TAIL = 8
NO_GPU = "no GPU"


def run_all(
    checks: Iterable[Check],
    machine: Machine,
    device: str,
    folder: Path,
    done: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Every check's outcome.

    Args:
        checks: which, in this order.
        machine: what is there; with `device` cuda and no GPU every check is skipped.
        device: `cuda`, or `cpu` for trying the checks out that know it.
        folder: for the logs, one a check.
        done: called after each.
    """
    outcomes = []
    for check in checks:
        why = missing(check, machine, device)
        outcome = Outcome(check.name, SKIPPED, why) if why else run(check, device, folder)
        outcomes.append(outcome)
        done(outcome)
    return outcomes


def missing(check: Check, machine: Machine, device: str) -> str:
    """What a check lacks on this machine; empty where it can run."""
    if device != "cuda":
        return ""
    if not machine.gpus:
        return f"{NO_GPU}: {machine.why_none}" if machine.why_none else NO_GPU
    if len(machine.gpus) < check.gpus:
        return f"needs {check.gpus} GPUs, here {'is 1' if len(machine.gpus) == 1 else f'are {len(machine.gpus)}'}"
    return ""


def run(check: Check, device: str, folder: Path) -> Outcome:
    """One check in its process; whatever happens, nothing that it started is left."""
    folder.mkdir(parents=True, exist_ok=True)
    log, answer = folder / f"{check.name}.log", folder / f"{check.name}.json"
    answer.unlink(missing_ok=True)
    begun = time.monotonic()
    with stop_signals_raise():
        command = [sys.executable, "-m", "verl_ext.gpu_check.child", check.name, device, str(answer)]
        process = ProcessFamily(command, child_environment({}), log)
        try:
            status = wait(process, check.limit_s)
        finally:
            process.end()
    seconds = round(time.monotonic() - begun, 1)
    if status is None:
        return Outcome(check.name, FAILED, f"still running after {check.limit_s:g} s, and ended; see {log}", seconds)
    if not answer.exists():
        return Outcome(check.name, FAILED, crashed(status, log), seconds)
    return Outcome(check.name, seconds=seconds, **json.loads(answer.read_text(encoding="utf-8")))


def wait(process: ProcessFamily, limit_s: float) -> int | None:
    """The exit status, or None after the limit."""
    deadline = time.monotonic() + limit_s
    while (status := process.poll()) is None:
        if time.monotonic() > deadline:
            return None
        process.note_family()
        time.sleep(0.2)
    return status


def crashed(status: int, log: Path) -> str:
    """How a process ended that left no answer, and the last it said."""
    how = f"the process was ended by signal {-status}" if status < 0 else f"the process ended with status {status}"
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    return "\n  ".join([f"{how}; see {log}", *last])

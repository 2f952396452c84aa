"""``verl-ext train``: compose, check, and run verl's own entry point, or only show what would run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from omegaconf import OmegaConf
from rich.console import Console

from verl_ext.bridge.driver import ConfigError
from verl_ext.process import ProcessFamily, run_family
from verl_ext.run_report import keys
from verl_ext.train.checks import Findings, examine
from verl_ext.train.composing import Composed, compose
from verl_ext.train.summary import summary

LOG = "train.log"


def train(arguments: Sequence[str], dry_run: bool = False, console: Console | None = None) -> int:
    """Run verl's trainer with this configuration; with `dry_run` print the configuration and everything about it.

    A dry run prints the resolved configuration to the standard output, unless there is a key in it; all else goes to
    `console`.

    Args:
        arguments: Hydra overrides, our groups with or without ``+``.
        dry_run: needs neither a GPU nor Ray.
        console: the standard error's by default.

    Returns:
        The exit status: verl's, 1 where the configuration is at fault, 130 when the run was interrupted.
    """
    console = console or Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        composed = compose(arguments)
    except ConfigError as error:
        console.print(str(error))
        return 1
    findings = examine(composed.config, composed.preset, start=not dry_run)
    if dry_run and not keys.faults(composed.config):
        show(composed, findings, console)
    for note in findings.notes:
        console.print(f"note: {note}")
    faults = findings.faults or composed.folder_faults()
    if faults:
        console.print("the configuration cannot run:", *(f"  - {fault}" for fault in faults), sep="\n")
        return 1
    return 0 if dry_run else run(composed, log_file(composed), console)


def show(composed: Composed, findings: Findings, console: Console) -> None:
    """The resolved configuration, then a summary of it."""
    # A fault may be that something cannot be resolved.
    resolves = not any("nterpolation" in fault for fault in findings.faults)
    sys.stdout.write(OmegaConf.to_yaml(composed.config, resolve=resolves))
    sys.stdout.flush()
    for line in summary(composed, resolves):
        console.print(line)


def log_file(composed: Composed) -> Path:
    """Where a run's output goes: beside its checkpoints."""
    return Path(composed.config.trainer.default_local_dir).expanduser() / LOG


def run(composed: Composed, log: Path, console: Console) -> int:
    """Run verl's entry point in a process of its own, its output in `log` and shown as it comes.

    Whatever happens, no process of the run is left behind.

    Returns:
        verl's exit status; 130 when interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"log: {log}")
    command = [sys.executable, *composed.command()]
    try:
        return run_family(
            command, platform(composed), log, lambda process: _follow(process, log),
            lambda: console.print("interrupted; ending the trainer and Ray ..."),
        )  # fmt: skip
    except KeyboardInterrupt:
        return 130


def platform(composed: Composed) -> dict[str, str]:
    """The environment of a run on the CPU: where a row chooses that back end, verl's command line does not show it."""
    if composed.config.trainer.device != "cpu":
        return {}
    from verl_ext.platform.cpu import cpu_env

    return cpu_env()


def _follow(process: ProcessFamily, log: Path) -> int:
    with log.open("rb") as lines:
        return process.follow(lambda: _copy(lines))


def _copy(lines: BinaryIO) -> None:
    sys.stdout.write(lines.read().decode("utf-8", errors="replace"))
    sys.stdout.flush()

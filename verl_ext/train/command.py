"""``verl-ext train``: compose, check, and run verl's own entry point, or only show what would run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from omegaconf import OmegaConf
from rich.console import Console

from verl_ext.checks.collecting import Findings, examine
from verl_ext.composing.compose import Composed
from verl_ext.composing.errors import ConfigError
from verl_ext.live import ending
from verl_ext.live.logs import STEP_LINES
from verl_ext.live.progress import RunState, watch
from verl_ext.process import ProcessFamily, run_family
from verl_ext.run import keys
from verl_ext.run.attempts import logs_in, next_log
from verl_ext.train import compose
from verl_ext.train.summary import summary

METRICS = "metrics.jsonl"
# Where verl's file logger writes, the first before the second.
FILE_LOGGER = ("VERL_FILE_LOGGER_PATH", "VERL_FILE_LOGGER_ROOT")


def train(
    arguments: Sequence[str], dry_run: bool = False, console: Console | None = None, verbose: bool = False
) -> int:
    """Run verl's trainer with this configuration; with `dry_run` print the configuration and everything about it.

    A dry run prints the resolved configuration to the standard output, unless there is a key in it; a run its progress
    and its table. All else goes to `console`.

    Args:
        arguments: Hydra overrides, our groups with or without ``+``.
        dry_run: needs neither a GPU nor Ray.
        console: the standard error's by default.
        verbose: show verl's own log in place of a line for each step.

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
    faults = [*findings.faults, *composed.folder_faults()]
    if faults:
        console.print("the configuration cannot run:", *(f"  - {fault}" for fault in faults), sep="\n")
        return 1
    return 0 if dry_run else run(composed, console, verbose)


def show(composed: Composed, findings: Findings, console: Console) -> None:
    """The resolved configuration, then a summary of it."""
    # A fault may be that something cannot be resolved.
    resolves = not any("nterpolation" in fault for fault in findings.faults)
    sys.stdout.write(OmegaConf.to_yaml(composed.config, resolve=resolves))
    sys.stdout.flush()
    for line in summary(composed, resolves):
        console.print(line)


def run(composed: Composed, console: Console, verbose: bool) -> int:
    """Run verl's entry point in a process of its own, its output in a new log beside the checkpoints.

    Whatever happens, no process of the run is left behind.

    Returns:
        verl's exit status; 130 when interrupted.
    """
    trainer, screen = composed.config.trainer, Console(soft_wrap=True, highlight=False)
    log = next_log(Path(trainer.default_local_dir).expanduser())
    console.print(f"log: {log}")
    state = RunState(log, None, trainer.total_training_steps, time.monotonic())
    try:
        status = run_family(
            [sys.executable, *composed.command()], environment(composed, log.parent), log,
            lambda process: _copied(process, log) if verbose else watch(process, state, screen),
            lambda: console.print("interrupted; ending the trainer and Ray ..."),
        )  # fmt: skip
    except KeyboardInterrupt:
        status = ending.INTERRUPTED
    if status != 0:
        ending.explain(status, log, console)
        return status
    ending.report(logs_in(log.parent), str(trainer.experiment_name), screen)
    return 0


def environment(composed: Composed, folder: Path) -> dict[str, str]:
    """What a run is told beside its configuration; a place that the user gave to verl's file logger stays."""
    given = any(name in os.environ for name in FILE_LOGGER)
    metrics = {} if given else {FILE_LOGGER[0]: str((folder / METRICS).absolute())}
    return {STEP_LINES: "1", **metrics, **platform(composed)}


def platform(composed: Composed) -> dict[str, str]:
    """The environment of a run on the CPU: where a row chooses that back end, verl's command line does not show it."""
    if composed.config.trainer.device != "cpu":
        return {}
    from verl_ext.platform.cpu import cpu_env

    return cpu_env()


def _copied(process: ProcessFamily, log: Path) -> int:
    """Wait for a process, showing its log as it comes; the exit status."""
    with log.open("rb") as lines:
        return process.follow(lambda: _copy(lines))


def _copy(lines: BinaryIO) -> None:
    sys.stdout.write(lines.read().decode("utf-8", errors="replace"))
    sys.stdout.flush()

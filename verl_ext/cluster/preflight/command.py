"""``verl-ext preflight``: compose, ask the cluster, compare, print."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from verl_ext.bridge.driver import ConfigError
from verl_ext.cluster.preflight.compare import compare, config_findings
from verl_ext.cluster.preflight.finding import Finding, succeeded
from verl_ext.cluster.preflight.found import Found
from verl_ext.cluster.preflight.gather import gather
from verl_ext.cluster.preflight.report import as_json, show
from verl_ext.cluster.preflight.wanted import Wanted, bare, wanted
from verl_ext.train.checks import examine, unset
from verl_ext.train.composing import Composed, compose
from verl_ext.train.notes import file_notes

LIMIT_S = 45.0
"""Until then whatever has not answered is a fault; ending a process that hangs takes up to ten seconds more."""


def preflight(
    arguments: Sequence[str],
    address: str | None = None,
    json: bool = False,
    limit_s: float = LIMIT_S,
    console: Console | None = None,
) -> int:
    """Print wanted against found.

    Args:
        arguments: as for ``verl-ext train``; without any, the machines alone are looked at.
        address: of Ray (``host:port``); ``local`` for this machine without Ray; None: the configuration's, or as
            ``ray.init`` finds it.
        json: print JSON in place of the table.
        limit_s: seconds for the answers of all nodes.
        console: the standard output's by default.

    Returns:
        0 if nothing is at fault, else 1; 130 when interrupted.
    """
    started = time.monotonic()
    try:
        findings, found = look(arguments, address, limit_s)
    except KeyboardInterrupt:
        return 130
    seconds = time.monotonic() - started
    if json:
        sys.stdout.write(as_json(findings, found, seconds) + "\n")
    else:
        show(findings, seconds, console or Console())
    return 0 if succeeded(findings) else 1


def look(arguments: Sequence[str], address: str | None, limit_s: float) -> tuple[list[Finding], Found]:
    """Every finding, the configuration's first, and what was found."""
    composed, faults = _composed(arguments)
    need = _wanted(composed)
    told = config_findings(faults, []) if faults else []

    def configuration() -> None:
        if composed is not None:
            told.extend(_examined(composed))

    found = gather(need, address or need.address, limit_s, meanwhile=configuration)
    return [*told, *compare(need, found)], found


def _composed(arguments: Sequence[str]) -> tuple[Composed | None, list[str]]:
    if not arguments:
        return None, []
    try:
        return compose(arguments), []
    except ConfigError as error:
        lines = str(error).splitlines()
        return None, [line.removeprefix("  - ") for line in lines[1:]] or lines


def _wanted(composed: Composed | None) -> Wanted:
    """The needs of a configuration; where it cannot be resolved, those of any run."""
    if composed is None:
        return bare()
    config = copy.deepcopy(composed.config)
    _, complete = unset(config)
    return wanted(config) if complete else bare()


def _examined(composed: Composed) -> list[Finding]:
    found = examine(composed.config)
    # Each node is asked for the files; that they are not on this machine says nothing.
    told = set(file_notes(composed.config)) if found.notes else set()
    return config_findings(found.faults, [note for note in found.notes if note not in told])

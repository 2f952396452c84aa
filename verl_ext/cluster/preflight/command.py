"""``verl-ext doctor cluster``: compose, ask the cluster, compare, print."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from verl_ext.cluster.preflight.asking import Child
from verl_ext.cluster.preflight.compare import compare
from verl_ext.cluster.preflight.configured import Configured, request
from verl_ext.cluster.preflight.finding import CLUSTER, FAULT, Finding, succeeded
from verl_ext.cluster.preflight.found import Found
from verl_ext.cluster.preflight.gather import gather
from verl_ext.cluster.preflight.report import as_json, show
from verl_ext.cluster.preflight.wanted import bare
from verl_ext.process import stop_signals_raise

CONFIGURED = "verl_ext.cluster.preflight.configured"
LIMIT_S = 48.0
"""Until then whatever has not answered is a fault; ending two processes that hang takes up to eight seconds more."""


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
        limit_s: seconds for everything: the configuration and the answers of all nodes. What is not known then is
            reported as not answered.
        console: the standard output's by default.

    Returns:
        0 if nothing is at fault, else 1; 130 when interrupted.
    """
    started = time.monotonic()
    try:
        with stop_signals_raise():
            findings, found = look(arguments, address, started + limit_s)
    except KeyboardInterrupt:
        return 130
    seconds = time.monotonic() - started
    if json:
        sys.stdout.write(as_json(findings, found, seconds) + "\n")
    else:
        show(findings, seconds, console or Console())
    return 0 if succeeded(findings) else 1


def look(arguments: Sequence[str], address: str | None, deadline: float) -> tuple[list[Finding], Found | None]:
    """Every finding, the configuration's first, and what was found; None where nobody was asked."""
    if not arguments:
        found = gather(need := bare(), address, deadline)
        return compare(need, found), found
    with Child(CONFIGURED, request(arguments)) as child:
        first = child.wait(deadline, first=True)
        if first is None:
            return [_unanswered(child)], None
        need = pickle.loads(first).need
        found = gather(need, address or need.address, deadline)
        last = child.wait(deadline)
        assert last is not None
        known: Configured = pickle.loads(last)
        told = [*known.findings] if known.complete else [_unanswered(child)]
    return [*told, *compare(need, found)], found


def _unanswered(child: Child) -> Finding:
    remedy = "give more time with --limit, or run the same with `verl-ext train --dry-run`"
    return Finding(FAULT, "config", CLUSTER, "checked", child.ending(), remedy)

"""The table, for terminals and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_ext.cluster.preflight.finding import FAULT, OK, WARN, Finding, count, succeeded
from verl_ext.cluster.preflight.found import Found

STYLES = {OK: "green", WARN: "yellow", FAULT: "bold red"}
NAMED = 3


def merged(findings: Sequence[Finding]) -> list[Finding]:
    """Lines that are equal but for the node become one, at the place of the first.

    Example:
        >>> [line.node for line in merged([Finding("ok", "ray", node, "2", "2") for node in ("a", "b")])]
        ['a, b']
    """
    nodes: dict[Finding, list[str]] = {}
    for finding in findings:
        nodes.setdefault(replace(finding, node=""), []).append(finding.node)
    return [replace(line, node=_names(names)) for line, names in nodes.items()]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def show(findings: Sequence[Finding], seconds: float, console: Console) -> None:
    """Print the table, then a line for each warning and each fault."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "check", "where", "wanted", "found"):
        table.add_column(heading, overflow="fold")
    lines = merged(findings)
    for line in lines:
        found = line.found if line.wanted else "see below"
        mark = Text(line.level, style=STYLES[line.level])
        table.add_row(mark, *map(Text, (line.check, line.node, line.wanted, found)))
    console.print(table)
    console.print()
    warnings, faults = ([line for line in lines if line.level == level] for level in (WARN, FAULT))
    for line in (*warnings, *faults):
        _say(f"{line.level:6}{line.sentence}", STYLES[line.level], console)
    verdict, style = ("not ready", STYLES[FAULT]) if faults else ("ready", STYLES[OK])
    counts = f"{count(len(faults), 'fault')}, {count(len(warnings), 'warning')}"
    _say(f"{verdict}: {counts}, {seconds:.0f} s", style, console)


def _say(text: str, style: str, console: Console) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def as_json(findings: Sequence[Finding], found: Found | None, seconds: float) -> str:
    """All findings, one for each node, and everything that was found."""
    report = {
        "ok": succeeded(findings),
        "seconds": round(seconds, 1),
        "findings": [asdict(finding) for finding in findings],
        "found": None if found is None else asdict(found),
    }
    return json.dumps(report, indent=1, ensure_ascii=False)

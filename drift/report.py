"""The findings about some releases as a table for people and as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from drift.compare import CHANGED, GONE, OK, Finding
from drift.contracts import FAILED, PASSED, SKIPPED, Outcome


@dataclass(frozen=True)
class Section:
    """One release: what became of each symbol, and how each contract test ended (None: they were not run)."""

    name: str
    version: str
    tested: str
    symbols: list[Finding]
    used_by: dict[str, list[str]] = field(default_factory=dict)
    contracts: list[Outcome] | None = None

    @property
    def red(self) -> int:
        """Symbols that are gone and contracts that fail."""
        failed = [item for item in self.contracts or [] if item.outcome == FAILED]
        return sum(item.status == GONE for item in self.symbols) + len(failed)

    def row(self) -> list[str]:
        counts = Counter(item.status for item in self.symbols)
        outcomes = Counter(item.outcome for item in self.contracts or [])
        ran = [f"{outcomes[FAILED]} of {outcomes[FAILED] + outcomes[PASSED]}", str(outcomes[SKIPPED])]
        verdict = "red" if self.red else "look" if counts[CHANGED] else "same"
        return [
            f"{self.name} {self.version}",
            *(str(counts[status]) for status in (OK, CHANGED, GONE)),
            *(ran if self.contracts is not None else ["not run", "-"]),
            verdict,
        ]


def as_json(sections: list[Section], day: str) -> dict[str, Any]:
    """Everything, symbols and tests that are in order included."""
    return {"date": day, "releases": [{**dataclasses.asdict(section), "red": section.red} for section in sections]}


def markdown(sections: list[Section], day: str, notes: list[str]) -> str:
    """The summary, and below it for each release what is not as it was."""
    head = ["release", "same", "changed", "gone", "contracts that fail", "left out", "verdict"]
    lines = [f"# Drift of {day}", "", *(f"- {note}" for note in notes), ""]
    lines += table(head, [section.row() for section in sections]) if sections else ["Nothing to compare."]
    for section in sections:
        lines += ["", f"## {section.name} {section.version} against {section.tested}", *details(section)]
    return "\n".join(lines) + "\n"


def details(section: Section) -> list[str]:
    """Red lines first: symbols gone, contracts that fail; then symbols that changed, and tests left out."""
    lines: list[str] = []
    for status in (GONE, CHANGED):
        rows = [
            [f"`{item.symbol}`", item.detail, ", ".join(f"`{path}`" for path in section.used_by.get(item.symbol, []))]
            for item in section.symbols
            if item.status == status
        ]
        lines += ["", f"Symbols {status}:", "", *table(["symbol", "what", "used in"], rows)] if rows else []
        if status == GONE:
            lines += _outcomes(section, FAILED, "Contracts that fail:")
    return lines + _outcomes(section, SKIPPED, "Left out:") or ["", "All as it was."]


def _outcomes(section: Section, outcome: str, title: str) -> list[str]:
    rows = [[f"`{item.test}`", item.message] for item in section.contracts or [] if item.outcome == outcome]
    return ["", title, "", *table(["test", "says"], rows)] if rows else []


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]

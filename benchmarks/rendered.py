"""`python -m benchmarks.rendered`: write the measured tables of docs/verification.md from `benchmarks/results`.

The measurements, each a command that takes minutes to an hour and keeps counts only:

    python -m benchmarks.verification FILES --keep
    python -m benchmarks.reader PAIRS --truths FILES --keep
    python -m benchmarks.adversarial FILES --keep
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.verification import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "verification.md"
_ANSWERS = "ground truths"
"""Counted by themselves: whether a ground truth can be read is not a verdict on an answer."""


def _table(head: str, rows: Iterable[Iterable[object]]) -> str:
    columns = head.split(" | ")
    lines = [f"| {head} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _files(kept: dict[str, Any]) -> str:
    head = "file | unique problems | ground truth in a box correct | wrong answers refused | not judged | answers/s"
    return _table(head, kept["rows"])


def _compared(kept: dict[str, Any]) -> str:
    head = (
        "source | pairs | ours right | math-verify right | ours pays wrongly, refuses wrongly | "
        "math-verify pays wrongly, refuses wrongly | they disagree | seconds, ours and math-verify"
    )
    return _table(
        head,
        (
            (
                row["source"], f"{row['pairs']:,}", f"{row['ours right']:,}", f"{row['math-verify right']:,}",
                f"{row['ours wrongly paid']}, {row['ours wrongly refused']}",
                f"{row['math-verify wrongly paid']}, {row['math-verify wrongly refused']}",
                row.get("disagree", 0), f"{row['ours seconds']}, {row['math-verify seconds']}",
            )
            for row in kept["rows"]
        ),
    )  # fmt: skip


def grouped(rows: list[dict[str, Any]]) -> list[tuple[str, int, int, int]]:
    """Name, answers decided, rightly, and ground truths read; the entries of a table in one line."""
    answers, right, truths, entries = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        table = re.match(r"\w+: _[A-Z]+(?= )", row["rule"])
        name = f"`{table.group()}`" if table else f"`{row['rule']}`"
        decided = sum(count for source, count in row["decided"].items() if source != _ANSWERS)
        answers[name] += decided
        right[name] += sum(count for source, count in row["rightly"].items() if source != _ANSWERS)
        truths[name] += row["decided"].get(_ANSWERS, 0)
        entries[name] += bool(decided or row["decided"]) if table else 0
    shown = [
        (f"{name}, {entries[name]} entries" if entries[name] else name, answers[name], right[name], truths[name])
        for name in answers
        if answers[name] or truths[name]
    ]
    return sorted(shown, key=lambda line: (-line[1], -line[3], line[0]))


def _rules(kept: dict[str, Any]) -> str:
    # A bar ends a cell of a table, in code too.
    lines = ((name.replace("|", "\\|"), *counts) for name, *counts in grouped(kept["rows"]))
    silent = sum(not row["decided"] for row in kept["rows"])
    head = "rule | answers decided | rightly | ground truths decided"
    return f"{_table(head, lines)}\n\n{silent} of {len(kept['rows'])} rules and entries decided nothing."


def _adversarial(kept: dict[str, Any]) -> str:
    outcomes: Counter[str] = Counter()
    for counts in kept["outcomes"].values():
        outcomes.update(counts)
    second = kept["correct by the second way"]
    facts = {
        "answers, of them mutations of real ground truths": f"{kept['answers']:,}, {kept['of real ground truths']:,}",
        "outcomes": ", ".join(f"{name} {count:,}" for name, count in outcomes.most_common()),
        "timeouts, errors": ", ".join(f"{outcomes[name] / kept['answers']:.3%}" for name in ("timeout", "error")),
        "seconds of an answer: median, 99.9%, slowest": f"{kept['seconds, median']}, {kept['seconds, 99.9%']}, "
        f"{kept['slowest']['seconds']} ({kept['slowest']['kind']})",
        "largest memory of a process": f"{kept['megabytes of a worker, largest']} MB",
        "judged correct, by the second way": ", ".join(
            f"{name.lower().replace('_', ' ')} {count:,}" for name, count in second.items()
        ),
        "minutes": kept["minutes"],
    }
    return _table("what | measured", facts.items())


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "files": _files,
    "compared": _compared,
    "rules": _rules,
    "adversarial": _adversarial,
}


def rendered(page: str) -> str:
    """The page with every table between its marks written anew."""
    for name, render in TABLES.items():
        kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text = f"<!-- {name}: {kept['verifier']} -->\n\n{render(kept)}\n\n<!-- end of {name} -->"
        page, found = re.subn(
            rf"<!-- {name}: .*? -->.*?<!-- end of {name} -->", lambda _, text=text: text, page, flags=re.DOTALL
        )
        if found != 1:
            raise ValueError(f"{PAGE.name} needs one '<!-- {name}: x -->' before '<!-- end of {name} -->', has {found}")
    return page


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

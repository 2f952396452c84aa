"""The manifest beside a prepared file: where it is from, what was done to it, what to know of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from verl_ext.data.dataset import Dataset
from verl_ext.data.expected import known_as
from verl_ext.data.problems import Collected, Exemption, near_duplicates
from verl_ext.data.sources import Opened
from verl_ext.data.templates import Template

OF_A_SPLIT = (
    *("files", "unverified", "content_sha256", "source_rows", "rows", "repetition", "templates_removed"),
    *("ground_truths", "left_out", "excluded", "answers_checked"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def build(
    dataset: Dataset,
    template: Template,
    collected: Collected,
    exemptions: Sequence[Exemption],
    written: dict[str, dict[str, Any]],
    opened: Opened | None = None,
    checked: dict[str, Any] | None = None,
    solutions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What goes into the file.

    Args:
        dataset: what is known of it.
        template: that was put around each problem.
        collected: what the source holds.
        exemptions: the registry's and the user's.
        written: rows and SHA-256 of each file, this one last.
        opened: the source; None for what is made here.
        checked: of `verl_ext.data.answers.check`; None if the answers were not checked.
        solutions: of `verl_ext.data.solutions.add`; None for a file without.
    """
    from verl_ext import __version__

    known = known_as(dataset, collected)
    kept = [e for e in exemptions if e.action == "keep"]
    near = near_duplicates(collected.problems)
    own = list(written.values())[-1]
    return {
        "name": dataset.name,
        "title": dataset.title,
        "kind": dataset.kind,
        "source": opened.name if opened else "verl_ext.toy.task",
        "files": [file.name for file in opened.files] if opened else [],
        "revision": opened.revision if opened else None,
        "unverified": known is None,
        "content_known_from": known,
        "content_sha256": collected.content_sha256,
        "source_rows": collected.rows,
        "rows": own["rows"],
        "sha256": own["sha256"],
        "written": written,
        "repetition": collected.repetition,
        "templates_removed": dict(sorted(collected.baked.items())),
        "ground_truths": dict(sorted(collected.shapes.items())),
        "left_out": collected.left_out,
        "drawn": dataset.drawn,
        "template": {"name": template.name, "sha256": template.sha256},
        "excluded": [
            {"key": problem.key, "row": problem.row, "copies": problem.copies, "reason": reason}
            for problem, reason in collected.excluded
        ],
        "kept_though_not_verifiable": [
            {"key": e.key, "reason": e.reason} for e in kept if e.key not in collected.unused
        ],
        "exemptions_without_a_row": collected.unused,
        "answers_checked": checked,
        "solutions": solutions,
        "near_duplicates": {
            "groups": len(near),
            "contradicting": [[p.key for p in group] for group in near if len({p.answer for p in group}) > 1],
        },
        "with_control_characters": sum(bool(_CONTROL.search(problem.text)) for problem in collected.problems),
        "verl_ext": __version__,
    }


def to_record(dataset: Dataset, content: dict[str, Any]) -> str | None:
    """What the set's file should hold of an unverified source, in words; None if it is verified."""
    if not content["unverified"]:
        return None
    revision = content["revision"]
    lines = [f"{dataset.name}: unverified. Compare with the paper's set; to record what was found, in its file:"]
    if revision is not None and dataset.hub is not None and revision != dataset.hub.revision:
        lines.append(f'    Hub("{dataset.hub.repo}", "{revision}", ...)')
    for part in (content, *([content["train"]] if "train" in content else [])):
        distinct = sum(part["repetition"].values())
        lines.append(f"    problems: {distinct} different pairs of problem and answer in {part['source_rows']} rows")
        origin = content["source"] if "train" not in content else f"{content['source']}, {', '.join(part['files'])}"
        lines.append(f'    Known("{origin}", "{part["content_sha256"]}")')
    return "\n".join(lines)

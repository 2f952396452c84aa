"""Grading of one answer with math-verify; loaded in the worker processes of the pool only.

math-verify's own time limits are signals, and off here: the pool kills the process instead.
"""

from __future__ import annotations

import logging
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

# math-verify warns at each first use that its time limits are off, which is the point.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_TARGET = [LatexExtractionConfig(boxed_match_priority=0)]
_PARSING: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None, "raise_on_error": True}


def last_box(text: str) -> str | None:
    """What stands in the last ``\\boxed{...}`` of the text, or None if none is opened and closed.

    An unfinished last box counts as none: the response was cut, and an earlier box is not its answer.
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for index in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : index].strip()
    return None


def _parse(content: str) -> list[object]:
    parsed: list[object] = parse(
        f"\\boxed{{{content}}}",
        _TARGET,
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=True,
    )
    return parsed


def grade(solution: str, ground_truth: str) -> str:
    """``"correct"``, ``"wrong"``, or ``"unparsable"`` where no boxed answer can be read.

    Raises:
        ValueError: if the ground truth itself cannot be read.
    """
    gold = _parse(ground_truth)
    if not gold:
        raise ValueError(f"the ground truth {ground_truth!r} is not an expression that math-verify can read")
    box = last_box(solution)
    if not box:
        return "unparsable"
    try:
        answer = _parse(box)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # The parser has no exception class of its own: whatever it raises means that it cannot read this.
        return "unparsable"
    if not answer:
        return "unparsable"
    return "correct" if verify(gold, answer, timeout_seconds=None, raise_on_error=True) else "wrong"

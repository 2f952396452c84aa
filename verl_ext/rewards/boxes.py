"""Where the answer of a response stands: its boxes. Plain text work, cheap enough for the calling process."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKENS = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Boxes:
    """What the boxes of a text hold.

    Attributes:
        any_closed: whether some ``\\boxed{...}`` is closed.
        last: content of the box opened last; None if there is no box, or if that one is not closed.
        open_tail: what follows the opening of the last box where it is not closed, else None.
    """

    any_closed: bool
    last: str | None
    open_tail: str | None


def find_boxes(text: str) -> Boxes:
    r"""The boxes of a text, in one pass; escaped braces do not count.

    An unfinished last box has no content: the response was cut, and an earlier box is not its answer.

    Example:
        >>> find_boxes(r"\boxed{7}, no: \boxed{\frac{1}{2}}").last
        '\\frac{1}{2}'
        >>> find_boxes(r"\boxed{7}, no: \boxed{8").last is None
        True
    """
    opened: list[int] = []  # where the content of each open box starts, -1 for any other brace
    start, end, closed = -1, -1, False
    for token in _TOKENS.finditer(text):
        kind = token.group()
        if kind == "{":
            opened.append(-1)
        elif kind == "}" and opened:
            begin = opened.pop()
            closed = closed or begin >= 0
            if begin == start >= 0:
                end = token.start()
        elif kind.startswith("\\boxed"):
            start, end = token.end(), -1
            opened.append(start)
    if start < 0:
        return Boxes(False, None, None)
    return Boxes(closed, text[start:end].strip() if end >= 0 else None, text[start:] if end < 0 else None)


def answer_of(solution: str, ground_truth: str) -> str | None:
    r"""Content of the last box, or None.

    A ground truth whose own braces do not match makes any box around it look unclosed. Where such a box holds the
    ground truth to the letter, that is the answer.
    """
    boxes = find_boxes(solution)
    if boxes.open_tail is not None and ground_truth and boxes.open_tail.startswith(ground_truth + "}"):
        return ground_truth
    return boxes.last or None

"""Grading of one answer around math-verify; loaded in the worker processes of the pool only.

The answer and the ground truth are made canonical, read as structures, and compared part by part; math-verify's
parser reads the expressions in them. It imports neither torch nor verl. math-verify's own time limits are signals,
and not used: the pool kills the process instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from verl_ext.rewards._equality import same
from verl_ext.rewards._expressions import expression, warm_up
from verl_ext.rewards._latex import bracket_depths, canonical, key
from verl_ext.rewards._leaves import in_base, is_word
from verl_ext.rewards._numbers import literal
from verl_ext.rewards._reading import Answer, Leaf, parts_of, readings
from verl_ext.rewards._work import TooMuchWorkError, limited

ANSWER_CHARACTERS = 2_000
ANSWER_DEPTH = 50
"""An answer with more characters, or more brackets within brackets, is not one."""

_WORDS = re.compile(r"[\w\s().,'-]*[^\W\d_][\w\s().,'-]*")
_SAYS_SOMETHING = re.compile(r"[^\W_]")
_DANGLING = re.compile(
    r"\\(?:frac|sqrt|binom)\s*(?:\{\s*\}|\}|$)|[\^_]\s*(?:\}|$)|(?<![\^{])[-+*/]\s*$|(?<!\\)(?:\\$|\{\})"
)
_CHOICE = re.compile(r"\(?[A-E]\)?")
_COMMAND = re.compile(r"\\(?!text)[A-Za-z]+|_\s*\{[^{}]*\}")
_WORD = re.compile(r"[^\W\d_]{4,}|[^\x00-\x7f\W\d_]|\\text\s*\{[^{}]*[^\W\d_]{2}|[^\W\d_]{2,}\s[^\W\d_]{2,}")


def task(answer: str | None, ground_truth: str, asked: Literal["outcome", "kind"] = "outcome") -> str:
    """What the worker processes run: `grade`, or `kind`."""
    return kind(ground_truth) if asked == "kind" else grade(answer, ground_truth)


def grade(answer: str | None, ground_truth: str) -> str:
    """``"correct"``, ``"wrong"``, or ``"unparsable"`` where there is no answer, or none that can be read.

    Args:
        answer: content of the response's last box; None if it has none.
        ground_truth: the expected answer, LaTeX without the box.

    Raises:
        ValueError: if the ground truth itself says nothing.
    """
    if not _SAYS_SOMETHING.search(canonical(ground_truth)):
        raise ValueError(f"the ground truth {ground_truth!r} is not an answer: it has neither letters nor digits")
    if not answer or _is_endless(answer) or not _SAYS_SOMETHING.search(canonical(answer)):
        return "unparsable"
    if key(answer) == key(ground_truth):
        return "correct"
    try:
        with limited():
            truths, answers = readings(ground_truth), readings(answer)
            if any(same(first, second) for first in truths for second in answers):
                return "correct"
            return "wrong" if any(_can_be_read(reading) for reading in answers) else "unparsable"
    except (TooMuchWorkError, RecursionError):
        return "unparsable"


def kind(ground_truth: str) -> str:
    r"""What a ground truth is: ``"mathematics"``, ``"text"`` or ``"damaged"``.

    Mathematics can be compared with other spellings; text (words, choices, notation that no rule reads) equals the
    same text only. What is damaged has brackets that do not match or commands without arguments, or says nothing.
    """
    text = canonical(ground_truth)
    if not _SAYS_SOMETHING.search(text) or _DANGLING.search(text) or not _braces_match(ground_truth):
        return "damaged"
    if _CHOICE.fullmatch(key(text)):
        return "text"
    try:
        with limited():
            leaves = list(_leaves(readings(ground_truth)[0]))
    except (TooMuchWorkError, RecursionError):
        return "damaged"
    if any(_is_prose(leaf) for leaf in leaves):
        return "text"
    unread = [leaf for leaf in leaves if not _is_mathematics(leaf)]
    if not all(_brackets_match(leaf.text) for leaf in unread):
        return "damaged"
    return "text" if unread else "mathematics"


def _braces_match(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += (token == "{") - (token == "}")
        if depth < 0:
            return False
    return depth == 0 and text.count("\\begin{") == text.count("\\end{")


def _is_endless(answer: str) -> bool:
    return len(answer) > ANSWER_CHARACTERS or max(bracket_depths(answer), default=0) > ANSWER_DEPTH


def _brackets_match(text: str) -> bool:
    opened: list[str] = []
    for character in text:
        if character in "([{":
            opened.append(character)
        elif character in ")]}" and (not opened or opened.pop() + character not in ("()", "[]", "{}")):
            return False
    return not opened


def _leaves(answer: Answer) -> Iterator[Leaf]:
    if isinstance(answer, Leaf):
        yield answer
    for part in parts_of(answer):
        yield from _leaves(part)


def _is_prose(leaf: Leaf) -> bool:
    return leaf.word or is_word(leaf.text) or bool(_WORD.search(_COMMAND.sub(" ", leaf.text)))


def _is_mathematics(leaf: Leaf) -> bool:
    return (
        leaf.text == "\\emptyset" or bool(literal(leaf.text)) or in_base(leaf.text) or expression(leaf.text) is not None
    )


def _can_be_read(answer: Answer) -> bool:
    return all(_WORDS.fullmatch(leaf.text) or _is_mathematics(leaf) for leaf in _leaves(answer))


warm_up()

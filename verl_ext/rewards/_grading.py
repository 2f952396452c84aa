"""Grading of one answer around math-verify; loaded in the worker processes of the pool only.

The answer and the ground truth are made canonical, read as structures, and compared part by part; math-verify's
parser reads the expressions in them. It imports neither torch nor verl. math-verify's own time limits are signals,
and not used: the pool kills the process instead.
"""

from __future__ import annotations

import re
from itertools import accumulate

from verl_ext.rewards._equality import same
from verl_ext.rewards._latex import canonical, key
from verl_ext.rewards._numbers import expression, literal
from verl_ext.rewards._reading import Answer, Group, Leaf, Matrix, Relation, Union, readings

ANSWER_CHARACTERS = 2_000
ANSWER_DEPTH = 50
"""An answer with more characters, or more brackets within brackets, is not one."""

_WORDS = re.compile(r"[\w\s().,'-]*[A-Za-z][\w\s().,'-]*")
_SAYS_SOMETHING = re.compile(r"[A-Za-z0-9]")


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
    truths, answers = readings(ground_truth), readings(answer)
    if any(same(first, second) for first in truths for second in answers):
        return "correct"
    return "wrong" if any(_can_be_read(reading) for reading in answers) else "unparsable"


def _is_endless(answer: str) -> bool:
    if len(answer) > ANSWER_CHARACTERS:
        return True
    depths = accumulate((character in "([{") - (character in ")]}") for character in answer)
    return max(depths, default=0) > ANSWER_DEPTH


def _can_be_read(answer: Answer) -> bool:
    if isinstance(answer, Leaf):
        text = answer.text
        return (
            bool(literal(text))
            or bool(re.fullmatch(r"[\w\s().,'-]*[A-Za-z][\w\s().,'-]*", text))
            or expression(text) is not None
        )
    if isinstance(answer, (Group, Union)):
        return all(_can_be_read(item) for item in (answer.items if isinstance(answer, Group) else answer.parts))
    if isinstance(answer, Relation):
        return all(_can_be_read(side) for side in answer.sides)
    assert isinstance(answer, Matrix)
    return all(_can_be_read(entry) for row in answer.rows for entry in row)


def _warm_up() -> None:
    # The parser builds its tables while it reads, which takes seconds in all: that is no answer's fault.
    for text in (
        r"\frac{1}{2}(e^{a t}+\sqrt{x_{1}^{2}-1})\sin(2t)-3\pi i",
        r"\left\lfloor\frac{2n-1}{5}\right\rfloor+\binom{2n}{n}n!",
        r"-\ln x+\log_{2} 8\cdot x(t)+\arcsin{a}-\cos^{2}\theta/2",
        r"C_{1}e^{-t}\cos(\omega t)+[P_{0}^{2/5}-K]^{-1/2}|x|",
    ):
        expression(canonical(text))


_warm_up()

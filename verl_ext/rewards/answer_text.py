r"""Where the answer of a response stands. Plain text work, cheap enough for the calling process.

``boxed``
    The last ``\boxed{...}`` or ``\fbox{...}``. One that is not closed is no answer: the response was cut. Without
    braces (``\boxed 7``) it holds the number that follows, or a letter or command that ends its line or formula.
``answer_line``
    What follows the last "Answer:" on its line, or on the next: at the start of a line in any case, elsewhere with a
    capital A. Where nothing follows there is no answer. A box in it is opened.
``last_number``
    The last number written out. A last line ``#### x`` goes before it.
``auto``
    The box if one was begun, else the answer line if there is one, else the last number.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

AnswerFormat = Literal["boxed", "answer_line", "last_number", "auto"]
ANSWER_FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)
DEFAULT_FORMAT: AnswerFormat = "boxed"
TAIL_CHARACTERS = 100_000
"""Only the end of a response is graded: the answer stands there, and pipes are not for books."""
_LAST_CHARACTERS = 2_000

_OPENING = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{)?")
_BARE = re.compile(
    r"[-+]?[0-9]+(?:[.,][0-9]+)*(?:/[0-9]+)?"
    r"|(?:[A-Za-z]|\\[A-Za-z]+(?:\{[^{}]*\})*)(?=\s*(?:\$|\\[)\]]|[.,;]?\s*(?:\n|\Z)))"
)
_TOKENS = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*\{|\\.|[{}]", re.DOTALL)
_ANSWER_LINE = re.compile(
    r"(?:^[ \t*_#>`$]*(?:\\text(?:bf|it)?\s*\{\s*)?(?:(?:the|my|final|correct)[ \t]+)*answer|\b(?-i:A)nswer)"
    r"[*_ \t]*[:：](?:[ \t]*\}|[*_]*)\s*([^\n]*)",
    re.MULTILINE | re.IGNORECASE,
)
_AROUND = re.compile(r"(\$\$?|`|\\[(\[])([^$`]+?)(?:\1|\\[)\]])", re.DOTALL)
_MARKS, _ENDS = "* \t\r", "*. \t\r"
_DIGITS = r"(?:(?:[0-9]{1,3}(?:(?:,|\{,\}|,\\!)[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_ONE_NUMBER = (
    r"(?P<number>(?<![A-Za-z0-9_.\\])(?:(?<![\w)}])[-−])?(?:\\?\$(?:\s|[-−])?)?"
    r"(?:(?:[0-9]+\s*)?\\[dt]?frac\s*(?:\{[-−]?[0-9]+\}\s*\{[0-9]+\}|[0-9]\s*[0-9])|[0-9]+ [0-9]+/[0-9]+"
    rf"|{_DIGITS}(?:\s?/\s?{_DIGITS}|[eE][-+]?[0-9]+|\s?(?:\\times|\\cdot|×|\*)\s?10\s?\^\s?(?:\{{[-−]?[0-9]+\}}|[-−]?[0-9]+))?)"
    r"(?:\s?\\?%)?)"
)
_NUMBER = re.compile(_ONE_NUMBER)
_HASHES = re.compile(rf"^####[ \t]*{_ONE_NUMBER}(?:[ \t]+[a-z]+)?\.?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Boxes:
    r"""What the boxes of a text hold.

    Attributes:
        any_closed: whether some ``\boxed{...}`` is closed, whatever it holds.
        last: content of the box opened last; None if there is no box, or if that one is not closed.
        open_tail: what follows the opening of the last box where it is not closed, else None.
        start: where the last box is opened; -1 if there is none.
    """

    any_closed: bool = False
    last: str | None = None
    open_tail: str | None = None
    start: int = -1


def find_boxes(text: str) -> Boxes:
    r"""The boxes of a text, found from its end; escaped braces do not count.

    Example:
        >>> find_boxes(r"\boxed{7}, no: \boxed{\frac{1}{2}}").last
        '\\frac{1}{2}'
        >>> find_boxes(r"\boxed{7}, no: \boxed{8").last is None
        True
    """
    at = len(text)
    while (at := text.rfind("box", 0, at)) >= 0:
        start = max(at - 1 - text.startswith("f", at - 1), 0)
        opening = _OPENING.match(text, start)
        before = text[max(start - 100, 0) : start]
        if opening is None or (len(before) - len(before.rstrip("\\"))) % 2:
            continue
        begin = opening.end()
        if opening.group(1) is None:
            if bare := _BARE.match(text, begin):
                return Boxes(True, bare.group(), None, start)
            continue
        depth = 1
        for token in _TOKENS.finditer(text, begin):
            depth += (token.group() == "{") - (token.group() == "}")
            if depth == 0:
                return Boxes(True, text[begin : token.start()].strip(), None, start)
        return Boxes(_any_closed(text), None, text[begin:], start)
    return Boxes()


def _any_closed(text: str) -> bool:
    opened: list[bool] = []  # whether each open brace is a box's
    for token in _TOKENS.finditer(text):
        kind = token.group()
        if kind == "}":
            if opened and opened.pop():
                return True
        elif kind == "{" or len(kind) > 2:
            opened.append(kind != "{")
    return False


def unboxed(text: str) -> str:
    r"""What stands in the last box of a ground truth, where it has one: the text around it is no part of the answer.

    Example:
        >>> unboxed(r"the least number is \(\boxed{12}\)."), unboxed("12")
        ('12', '12')
    """
    return find_boxes(text).last or text


def answer_of(
    solution: str, ground_truth: str, answer_format: AnswerFormat = DEFAULT_FORMAT, boxes: Boxes | None = None
) -> str | None:
    r"""The answer of a response, None where it has none.

    A ground truth whose own braces do not match makes any box around it look unclosed. Where such a box holds the
    ground truth to the letter, that is the answer.

    Args:
        solution: the response.
        ground_truth: without a box, see `unboxed`.
        answer_format: where the answer stands, see the module.
        boxes: of the response, where they are known.

    Example:
        >>> answer_of("so\n**Answer:** $x=5$.", "5", "answer_line"), answer_of("3 cars cost $1,200 each.", "5", "auto")
        ('x=5', '1,200')
    """
    boxes = find_boxes(solution) if boxes is None else boxes
    tail = solution[-TAIL_CHARACTERS:]
    if answer_format in ("boxed", "auto") and boxes.start >= len(solution) - len(tail):
        if boxes.open_tail is not None and ground_truth and boxes.open_tail.startswith(ground_truth + "}"):
            return ground_truth
        if boxes.start >= 0:
            return boxes.last or None
    if answer_format in ("answer_line", "auto") and (line := _last_match(_ANSWER_LINE, tail)):
        return _plain(line.group(1)) or None
    return _last_number(tail) if answer_format in ("last_number", "auto") else None


def _plain(line: str) -> str | None:
    """An answer line without marks of text around the answer."""
    boxes = find_boxes(line)
    if boxes.start >= 0:
        return boxes.last
    line = line.strip(_MARKS).rstrip(_ENDS)
    while match := _AROUND.fullmatch(line):
        line = match.group(2).strip(_MARKS).rstrip(_ENDS)
    return line


def _last_number(text: str) -> str | None:
    found = (_last_match(_HASHES, text) if "####" in text else None) or _last_match(_NUMBER, text)
    return found.group("number").replace("\\$", "").replace("$", "") if found else None


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    # The last lines first: answers stand there.
    for begin in (text.rfind("\n", 0, max(len(text) - _LAST_CHARACTERS, 0)) + 1, 0):
        if found := deque(pattern.finditer(text, begin), maxlen=1):
            return found.pop()
    return None


def written(answer: str, answer_format: AnswerFormat) -> str:
    r"""How a response in that format ends.

    Example:
        >>> written("7", "boxed"), written("7", "answer_line"), written("7", "last_number")
        ('\\boxed{7}', 'Answer: 7', '#### 7')
    """
    if answer_format == "answer_line":
        return f"Answer: {answer}"
    return f"#### {answer}" if answer_format == "last_number" else f"\\boxed{{{answer}}}"


def chosen_format(asked: object, of_row: object) -> AnswerFormat:
    """The format that is asked for, or else that of the data, or else `DEFAULT_FORMAT`; None says nothing.

    Raises:
        ValueError: if one is unknown, or the two differ.

    Example:
        >>> chosen_format(None, "answer_line"), chosen_format(None, None)
        ('answer_line', 'boxed')
    """
    given = [name for name in (asked, of_row) if name is not None]
    if unknown := [name for name in given if name not in ANSWER_FORMATS]:
        raise ValueError(f"answer_format {unknown[0]!r} is not known: choose {', '.join(ANSWER_FORMATS)}")
    if len(set(given)) > 1:
        raise ValueError(
            f"answer_format is {asked!r} where it is asked for, and {of_row!r} in the data (extra_info.answer_format), "
            "whose prompts ask for that: leave the first out, or prepare the data for it"
        )
    return next((known for known in ANSWER_FORMATS if known in given), DEFAULT_FORMAT)

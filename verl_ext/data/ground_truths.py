r"""How sources write a ground truth, and the answer in it.

=====================  ==================================================================================
shape                  the answer
=====================  ==================================================================================
``text``, ``number``   the text, without white space at its ends; a whole number without its ".0"
``list``               what a list or an array of one holds
``json list``          what a list of one holds that is written into a text: ``["34"]``, ``['34']``, ``[34]``
``object``             what the only key of `KEYS` holds: ``{"answer": "34"}``, also written into a text
``####``               what follows the last ``####`` on its line: GSM8K's worked solutions
``answer tag``         what the last ``<answer>...</answer>`` holds: R1's form
``box``                what the last box of a text holds: MATH's worked solutions
``answer line``        what follows "The answer is:" or "Answer:" on the last line: MetaMathQA's and others'
=====================  ==================================================================================

What follows ``####`` or stands in a tag may be in a box. A list of several different ones is no answer: nothing says
whether all or one of them is meant.
"""

from __future__ import annotations

import ast
import json
import math
import re
from decimal import Decimal
from typing import Any

from verl_ext.rewards.answer_text import find_boxes, unboxed

KEYS = ("answer", "final_answer", "ground_truth", "value", "target")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LINE = re.compile(
    # Without a colon it has to be a number: "The answer is not unique" is an answer itself.
    r"(?:^|[.!?]\s|\n)[*_#\s]*(?:a: |so |thus,? |therefore,? |hence,? )?(?:the )?(?:final )?answer"
    r"(?: is)?(?:[*_]*\s*[:：][*_]*| (?=[^\n]*\d))\s*([^\n]+?)\.?[\s*_]*$",
    re.IGNORECASE,
)


def answer_in(value: Any) -> tuple[str, str]:
    r"""The answer that a ground truth gives, and the shape in which it is written; an empty answer where it has none.

    Raises:
        ValueError: it is none of the shapes; says what it is.

    Example:
        >>> answer_in("6 * 12 = 72 clips.\n#### 72")
        ('72', '####')
        >>> answer_in('["34"]'), answer_in(7.0), answer_in(r"So it is $\boxed{\frac12}$.")
        (('34', 'json list'), ('7', 'number'), ('\\frac12', 'box'))
    """
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        value = value.tolist()
    if value is None:
        return "", "text"
    if isinstance(value, list | tuple):
        return _only(value), "list"
    if isinstance(value, dict):
        return _entry(value), "object"
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("the answer is neither a text nor a number")
    if not isinstance(value, str):
        return _number(value), "number"
    return _of_text(value.strip())


def _of_text(text: str) -> tuple[str, str]:
    written = _written(text)
    if isinstance(written, list):
        return _only(written), "json list"
    if isinstance(written, dict):
        return _entry(written), "object"
    if found := _HASHES.findall(text):
        return unboxed(found[-1].strip()), "####"
    if found := _TAG.findall(text):
        return unboxed(found[-1].strip()), "answer tag"
    if (box := find_boxes(text).last) is not None:
        return box, "box"
    if line := _LINE.search(text):
        return line[1].strip(" *_"), "answer line"
    return text, "text"


def _written(text: str) -> Any:
    """The list or object that a text is, as JSON or as Python writes it; None where it is none.

    A list of numbers is an interval or a tuple unless it holds one alone: ``[1, 2]``.
    """
    if not text.startswith(("[", "{")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list) and (len(value) == 1 or any(isinstance(one, str) for one in value)):
            return value
        if isinstance(value, dict) and any(key in value for key in KEYS):
            return value
        return None
    return None


def _only(values: list[Any] | tuple[Any, ...]) -> str:
    found = list(dict.fromkeys(answer_in(value)[0] for value in values))
    if len(found) > 1:
        raise ValueError("the answer is a list of several")
    return found[0] if found else ""


def _entry(value: dict[str, Any]) -> str:
    found = [key for key in KEYS if key in value]
    if len(found) != 1:
        raise ValueError(f"the answer is an object with {'several' if found else 'none'} of {', '.join(KEYS)}")
    return answer_in(value[found[0]])[0]


def _number(value: float | Decimal) -> str:
    # Tables with a gap turn integers into floats, and the gap into NaN.
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value == int(value) else str(value)

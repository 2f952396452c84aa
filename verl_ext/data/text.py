"""Forms of a text: the one that is hashed, the one that is compared, and its words."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

_SPACE = re.compile(r"\s+")
# Spacing and size commands of LaTeX change the look of a formula only; so do the marks that open and close it.
_LATEX_SPACING = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|quad|qquad|hspace\{[^{}]*\})(?![a-zA-Z])"
    r"|\\[,;:! >()\[\]]|\$|~"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_RELATION = re.compile(r"\\(le|ge|ne)(?![a-zA-Z])")
_PUNCTUATION = re.compile(r"[.,;:?!'\"`´‘’“”。，；：？！、（）()\[\]{}*]")
# A letter of the ideographic scripts is a word: they are written without spaces.
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")


def canonical(text: str) -> str:
    r"""The text in Unicode's composed form, each run of white space as one space, none at the ends.

    Two rows are the same problem if their canonical texts are equal.

    Example:
        >>> canonical("  Find\n $x$ ")
        'Find $x$'
    """
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def normalised(text: str) -> str:
    r"""The text without what a copy may change: case, white space, punctuation, LaTeX spacing and brackets.

    Operators, digits and letters stay, so that $2n-1$ and $2n+1$ remain different.

    Example:
        >>> normalised(r"Find  \( \dfrac{1}{2}\, x \)!") == normalised(r"find $\frac{1}{2}x$")
        True
    """
    text = unicodedata.normalize("NFKC", text)
    text = _RELATION.sub(r"\\\1q", _FRACTION.sub(r"\\frac", text))
    return _SPACE.sub("", _PUNCTUATION.sub("", _LATEX_SPACING.sub("", text))).casefold()


def words(text: str) -> list[str]:
    r"""Runs of letters and digits in lower case; an ideograph is a word of its own.

    Example:
        >>> words(r"Find $\frac{1}{2}$ of x_1, 求和")
        ['find', 'frac', '1', '2', 'of', 'x', '1', '求', '和']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def key(problem: str, answer: str) -> str:
    """Twelve hexadecimal digits that name a row by its canonical problem and answer.

    Example:
        >>> key("1+1=?", "2") == key(" 1+1=? ", "2") != key("1+1=?", "3")
        True
    """
    return _row_hash(problem, answer)[:12]


def content_hash(rows: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of a set of (problem, answer) that does not depend on their order.

    The canonical texts of each row are hashed, and the sorted hashes, one a line, are hashed again.

    Example:
        >>> content_hash([("a", "1"), ("b", "2")]) == content_hash([(" b", "2"), ("a", "1 ")])
        True
    """
    lines = sorted(_row_hash(problem, answer) for problem, answer in rows)
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _row_hash(problem: str, answer: str) -> str:
    # Lone surrogates, which JSON can carry, have no UTF-8 form of their own.
    text = f"{canonical(problem)}\0{canonical(answer)}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

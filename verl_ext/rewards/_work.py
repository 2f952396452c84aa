"""How much work one answer may cost: parts read and parts compared are counted, however they are nested."""

from __future__ import annotations

_LIMIT = 5_000
_spent = 0


class TooMuchWorkError(Exception):
    """An answer that takes more than any honest one."""


def begin() -> None:
    """Count from nothing: a new answer."""
    global _spent
    _spent = 0


def spend(steps: int = 1) -> None:
    """Count some steps.

    Raises:
        TooMuchWorkError: if the answer has used up its share.
    """
    global _spent
    _spent += steps
    if _spent > _LIMIT:
        raise TooMuchWorkError

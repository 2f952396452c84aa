"""How much work one answer may cost: parts read, parts compared and operations of values, however they are nested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_LIMIT = 10_000
_left: list[int] = []


class TooMuchWorkError(Exception):
    """An answer that takes more than any honest one."""


@contextmanager
def limited() -> Iterator[None]:
    """Count what is spent inside; outside, nothing is counted."""
    _left[:] = [_LIMIT]
    try:
        yield
    finally:
        _left.clear()


def spend(steps: int = 1) -> None:
    """Count some steps.

    Raises:
        TooMuchWorkError: if the answer has used up its share.
    """
    if _left:
        _left[0] -= steps
        if _left[0] < 0:
            raise TooMuchWorkError

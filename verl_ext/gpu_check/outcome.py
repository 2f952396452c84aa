"""What a check ends with, and the exceptions by which it says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


class CheckError(Exception):
    """What was found is not what had to be found; the message says both."""


class SkipError(Exception):
    """The check cannot be made here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """One check.

    Attributes:
        name: key in the table of checks.
        status: `ok`, `failed` or `skipped`.
        why: what was wrong, or what is missing; empty where all is well.
        seconds: wall clock, the start of the check's process included.
        figures: what was measured.
    """

    name: str
    status: str
    why: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def demand(holds: bool, message: str) -> None:
    """Raise CheckError with the message unless it holds."""
    if not holds:
        raise CheckError(message)

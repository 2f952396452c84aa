"""One line of the table: what was wanted and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARN, FAULT = "ok", "warn", "fault"
CLUSTER = "cluster"

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        level: ``ok``; ``warn``, which may work; ``fault``, which would fail, hang or be pointless.
        check: what is compared, for instance ``vllm``.
        node: the address of one node, or ``cluster``.
        wanted: in words.
        found: in words.
        remedy: what to do; empty where all is well.
    """

    level: str
    check: str
    node: str
    wanted: str
    found: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """The line that names a fault."""
        # The configuration's own faults are whole sentences already.
        if not self.wanted:
            return f"{self.check}: {self.found}"
        place = "" if self.node == CLUSTER else f" on node {self.node}"
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.check}{place}: wanted {self.wanted}, found {self.found}{remedy}"


def succeeded(findings: Sequence[Finding]) -> bool:
    return all(finding.level != FAULT for finding in findings)


def size(number: float) -> str:
    """Bytes in words.

    Example:
        >>> size(3 * 2**30), size(150 * 2**20)
        ('3.0 GiB', '150 MiB')
    """
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / 2**20:.0f} MiB"


def count(number: int, noun: str) -> str:
    """
    Example:
        >>> count(1, "GPU"), count(2, "GPU")
        ('1 GPU', '2 GPUs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"

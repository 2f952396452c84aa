"""How the commands replay and calibrate refuse their input, every fault at once, and write their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer


class ReplayError(ValueError):
    """The input cannot be used.

    Attributes:
        faults: one sentence each.

    Example:
        >>> print(ReplayError(["one", "two"]))
          - one
          - two
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(f"  - {fault}" for fault in faults))


@contextmanager
def refusing(outcome: str) -> Iterator[None]:
    """Where the body refuses its input, a command prints the outcome with every fault, and exits with status 2."""
    try:
        yield
    except ReplayError as error:
        typer.echo(f"{outcome}:\n{error}", err=True)
        raise typer.Exit(2) from None


def write(path: Path, content: bytes, beside: bool) -> None:
    """Write a command's file, and say so; on standard error if `beside`, as JSON stands on the other one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    typer.echo(f"written: {path}", err=beside)

"""The steps in a run's log, as verl's console logger shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from verl_ext.live.logs import read_step
from verl_ext.run_report.attempts import Row


def rows(file: Path) -> Iterator[Row]:
    """The steps of one log, in the order in which they were printed."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (record := read_step(line)) is not None:
                yield Row(record.step, record.values)

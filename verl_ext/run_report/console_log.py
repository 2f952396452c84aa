"""The steps in a run's log, as verl's console logger shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from verl_ext.run_report.attempts import Row
from verl_ext.run_report.history import Record

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ACTOR = re.compile(r"^(?:\([^()]*\bpid=\d+[^()]*\)|\[\w+\([^)]*\)\])\s?")
_REPEATED = re.compile(r"\s*\[repeated \d+x across cluster\].*$")
_STEP = re.compile(r"^step:(?P<step>\d+) - (?P<rest>.+)$")
_NUMBER = re.compile(r"(?:np\.\w+\()?(?P<number>[-+]?(?:\d[\d_.]*(?:[eE][-+]?\d+)?|inf|nan))\)?")


def plain(line: str) -> str:
    """A line of the log without colours and without Ray's prefix ``(Actor pid=1, ip=...)``."""
    return _REPEATED.sub("", ACTOR.sub("", ANSI.sub("", line).rstrip()))


def read_step(line: str) -> Record | None:
    """The metrics of a line that verl's console logger wrote; None of any other line.

    Example:
        >>> read_step("(TaskRunnerV1 pid=7) step:3 - critic/rewards/mean:0.5 - timing_s/step:np.float64(12.25)")
        Record(step=3, values={'critic/rewards/mean': 0.5, 'timing_s/step': 12.25})
    """
    match = _STEP.match(plain(line))
    if match is None:
        return None
    values = {}
    for part in match["rest"].split(" - "):
        name, _, text = part.rpartition(":")
        number = _NUMBER.fullmatch(text.strip())
        if name and number and math.isfinite(value := float(number["number"])):
            values[name] = value
    return Record(int(match["step"]), values)


def rows(file: Path) -> Iterator[Row]:
    """The steps of one log, in the order in which they were printed."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (record := read_step(line)) is not None:
                yield Row(record.step, record.values)

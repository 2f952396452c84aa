"""The steps of a job, read from its log as it arrives, and one line that shows them."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from verl_ext.live.logs import STARTUP, startup_phase
from verl_ext.live.progress import clock
from verl_ext.run_report.console_log import read_step
from verl_ext.run_report.history import Record

KEPT_LINES = 5000
"""Of the end of the log, to find in them what went wrong."""

_RESUMED = re.compile(r"[Ss]etting global step to (?P<step>\d+)")
_RECENT = 10
"""Steps whose mean time predicts the rest."""


@dataclass
class JobState:
    """What is known of a job from the log that has arrived.

    Attributes:
        total: steps of the whole training; None if epochs decide.
        records: of this attempt's steps.
        tail: the last lines.
        resumed: the step at which this attempt took the training up; None if the log does not say.
    """

    total: int | None = None
    records: list[Record] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    resumed: int | None = None
    _phase: int = -1

    def feed(self, line: str) -> Record | None:
        """Take in a line; the step that it reports, if it does."""
        self.tail.append(line)
        if match := _RESUMED.search(line):
            self.resumed = int(match["step"])
        record = read_step(line)
        if record is not None:
            self.records.append(record)
        elif not self.records:
            self._phase = startup_phase(line, self._phase)
        return record

    @property
    def step(self) -> int:
        return self.records[-1].step if self.records else self.resumed or 0

    def seconds_left(self) -> float | None:
        """From the mean of the last steps; None before the first, or where the number of steps is not known."""
        recent = [seconds for record in self.records[-_RECENT:] if (seconds := record.get("seconds a step"))]
        if self.total is None or not recent:
            return None
        return max(0, self.total - self.step) * sum(recent) / len(recent)

    def line(self) -> str:
        """Step, reward, seconds a step and the time left; before the first step, what is being started."""
        if not self.records:
            resumed = f", resumed at step {self.resumed}" if self.resumed else ""
            return f"{STARTUP[self._phase][1] if self._phase >= 0 else 'waiting for the job'}{resumed}"
        record, left = self.records[-1], self.seconds_left()
        reward, seconds = record.get("reward"), record.get("seconds a step")
        parts = [
            f"step {record.step}{'' if self.total is None else f'/{self.total}'}",
            f"reward {'?' if reward is None else f'{reward:.3f}'}",
            f"{'?' if seconds is None else f'{seconds:.1f}'} s a step",
        ]
        return "  ".join([*parts, *([] if left is None else [f"{clock(left)} left"])])


class ProgressLine:
    """Shows a `JobState`: below the log on a terminal, elsewhere a line for each step. A context manager."""

    def __init__(self, console: Console, state: JobState, log_on_terminal: bool) -> None:
        self._console = console
        self._state = state
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._redirect = log_on_terminal

    def __enter__(self) -> ProgressLine:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
            # A log that goes to a file must go on doing so.
            self._progress = Progress(
                *columns, console=self._console, transient=True, redirect_stdout=self._redirect, redirect_stderr=False
            )
            self._task = self._progress.add_task(self._state.line(), total=self._state.total)
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, record: Record | None) -> None:
        """Bring the line up to date after a line of the log."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._state.step, description=self._state.line())
        elif record is not None:
            self._console.print(self._state.line(), markup=False, highlight=False, soft_wrap=True)

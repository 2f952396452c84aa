"""One live line instead of a wall of log: the start-up's phase, then step, reward, entropy and time left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from verl_ext.live.logs import STARTUP, startup_phase, total_steps
from verl_ext.process import ProcessFamily
from verl_ext.run_report.console_log import read_step
from verl_ext.run_report.history import MetricsTail, Record

_FIRST_PHASE = "importing verl"
_VALIDATING = "first validation"
_RECENT = 10
"""Steps over which the time left is estimated: early steps are slower than later ones."""


@dataclass
class RunState:
    """What is known about a run from its files. `update` reads what they gained.

    The start-up ends when verl opens the metrics file, which it does just before the first validation. Without such a
    file the steps are those that the log shows, and the start-up ends with the first.

    Attributes:
        log: what the trainer prints.
        metrics: of verl's file logger; no earlier attempt may have written it. None for a run without.
        total: number of steps asked for; None until the log says it.
        started: clock reading at the launch, in seconds; `now` of `update` is on the same clock.
    """

    log: Path
    metrics: Path | None
    total: int | None
    started: float
    records: list[Record] = field(default_factory=list)
    startup_seconds: float | None = None
    _phase: int = -1
    _log_offset: int = 0
    _seen_at: list[tuple[int, float]] = field(default_factory=list)
    _tail: MetricsTail | None = None

    def update(self, now: float) -> list[Record]:
        """Read on in the files; the records that are new since the last call."""
        shown = self._read_log()
        if self._tail is None and self.metrics is not None and self.metrics.exists():
            self._tail = MetricsTail(self.metrics)
        fresh = self._tail.poll() if self._tail is not None else shown
        if self.startup_seconds is None and (self._tail is not None or fresh):
            self.startup_seconds = now - self.started
        self.records.extend(fresh)
        if fresh:
            self._seen_at.append((fresh[-1].step, now))
        return fresh

    @property
    def step(self) -> int:
        return self.records[-1].step if self.records else 0

    @property
    def phase(self) -> str:
        """What the run does now, in words."""
        if self.records:
            return "training"
        if self.startup_seconds is not None:
            return _VALIDATING
        return STARTUP[self._phase][1] if self._phase >= 0 else _FIRST_PHASE

    def seconds_left(self, now: float) -> float | None:
        """An estimate from the last steps, less what has passed since; None before the first step."""
        recent = self._seen_at[-_RECENT - 1 :]
        if self.total is None or len(recent) < 2 or recent[-1][0] == recent[0][0]:
            return None
        (first, begun), (last, ended) = recent[0], recent[-1]
        return max(0.0, (self.total - last) * (ended - begun) / (last - first) - (now - ended))

    def _read_log(self) -> list[Record]:
        """Read on in the log; the steps that it shows. It is left alone once there is a metrics file to read."""
        if self._tail is not None or not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            chunk = file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._log_offset += len(whole)
        text = whole.decode(errors="replace")
        if not self.records:
            self._phase = startup_phase(text, self._phase)
        lines = text.splitlines()
        self.total = next((total for line in lines if (total := total_steps(line)) is not None), self.total)
        return [record for line in lines if (record := read_step(line)) is not None]

    def progress(self, step: int) -> str:
        """``step 3/60``, without the total where it is not known."""
        return f"step {step}{'' if self.total is None else f'/{self.total}'}"


def clock(seconds: float) -> str:
    """``75`` seconds as ``1m15s``, ``9`` as ``9s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def describe(record: Record) -> str:
    """The numbers of one step in words; what the step does not report is shown as a question mark."""
    parts = []
    accuracy = record.accuracy()
    if record.step > 0:
        for words, form in (("reward", "{:.3f}"), ("entropy", "{:.3f} nats"), ("clip fraction", "{:.1%}")):
            value = record.get(words)
            label = words.removesuffix(" fraction")
            parts.append(f"{label} {'?' if value is None else form.format(value)}")
    if accuracy is not None:
        parts.append(f"validation accuracy {accuracy:.1%}")
    return "  ".join(parts)


class LiveLine:
    """Shows a `RunState`: a moving line on a terminal, plain lines elsewhere. A context manager."""

    def __init__(self, console: Console, state: RunState) -> None:
        self._console = console
        self._state = state
        self._phase = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> LiveLine:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("", total=self._state.total)
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, fresh: list[Record], now: float) -> None:
        """Bring the display up to date after `RunState.update` returned `fresh`."""
        state = self._state
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=state.total, completed=state.step, description=self.line(now))
            validations = [record for record in fresh if record.accuracy() is not None]
            for record in validations:
                text = f"step {record.step}: validation accuracy {record.accuracy():.1%}"
                self._console.print(text, highlight=False)
            return
        if state.phase != self._phase:
            self._phase = state.phase
            self._console.print(f"[{clock(now - state.started)}] {state.phase}", markup=False)
        for record in fresh:
            left = state.seconds_left(now)
            ending = "" if left is None else f"  {clock(left)} left"
            text = f"{state.progress(record.step)}  {describe(record)}{ending}"
            self._console.print(text, markup=False, soft_wrap=True)

    def line(self, now: float) -> str:
        """The text beside the bar."""
        state = self._state
        elapsed = clock(now - state.started)
        if not state.records:
            return f"{state.phase}  {elapsed}"
        training = [record for record in state.records if record.step > 0]
        numbers = describe(training[-1]) if training else "first step"
        left = state.seconds_left(now)
        return f"{state.progress(state.step)}  {numbers}  {'' if left is None else clock(left) + ' left'}"


def watch(process: ProcessFamily, state: RunState, console: Console, limit_s: float | None = None) -> int:
    """Show a run as a live line until its process has ended; the exit status.

    Raises:
        TimeoutError: if it still runs `limit_s` seconds after its launch; ending it is the caller's.
    """
    with LiveLine(console, state) as live:

        def look() -> None:
            now = time.monotonic()
            live.show(state.update(now), now)
            if limit_s is not None and now - state.started > limit_s and process.poll() is None:
                raise TimeoutError(f"it took longer than {limit_s:.0f} s")

        return process.follow(look)

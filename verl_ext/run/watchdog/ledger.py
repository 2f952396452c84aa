"""What a run is doing, since when, and whether it may go on: a state machine without threads of its own.

Progress is: a phase begins or ends, or a mark of the phase passes everything it was in this phase. Marks only count
when they pass their best, so that work which is thrown away and done again for ever (groups that fail and are
replaced) runs out of progress after as many marks as there are groups in flight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from verl_ext.run.watchdog.settings import WatchdogSettings

START_UP, TRAINING, SHUT_DOWN = "start-up", "training", "shut-down"
# A phase may be without progress for this many times as long as it was before, if that is more than its limit.
SLACK = 3.0
# Not ended for the death of another process: what is being written would be lost.
PATIENT = ("save_checkpoint",)


@dataclass(frozen=True)
class Death:
    """A process of the run that ended although nobody asked it to."""

    who: str
    why: str
    seen: float  # on the ledger's clock


@dataclass(eq=False)
class Phase:
    """A stretch of the run that has a name."""

    name: str
    began: float
    marks: dict[str, float] = field(default_factory=dict)
    failed: int = 0  # groups replaced since one was last kept


@dataclass(frozen=True)
class Verdict:
    """Why the run is ended."""

    kind: str  # "stalled", "died" or "failing"
    phase: str
    outer: tuple[str, ...]
    step: int
    phase_s: float
    idle_s: float
    limit_s: float
    last: str
    deaths: tuple[Death, ...]
    failed: int
    counts: str


class Ledger:
    """What the threads of one process tell about a run, and the verdict on it.

    Args:
        settings: the limits.
        batch: groups of a training step.
        clock: seconds that never go back.
    """

    def __init__(self, settings: WatchdogSettings, batch: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._batch, self._clock = settings, batch, clock
        self._lock = threading.RLock()
        self._phases = [Phase(START_UP, clock())]
        self._longest: dict[str, float] = {}
        self._deaths: dict[str, Death] = {}
        self._counts = ""
        self._moved, self._last = clock(), "the watchdog was started"
        self.step = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase within the present one."""
        with self._lock:
            self._progress(f"{name} began")
            entered = Phase(name, self._clock())
            self._phases.append(entered)
        try:
            yield
        finally:
            with self._lock:
                self._leave(entered)

    def become(self, name: str) -> None:
        """The outermost phase is another one from now on; what was within it is over."""
        with self._lock:
            self._progress(f"{name} began")
            self._phases = [Phase(name, self._clock())]
            self._counts = ""

    def mark(self, name: str, value: float, text: str) -> None:
        """Progress if `value` is above everything that `name` was in this phase; the first value is none."""
        with self._lock:
            marks = self._phases[-1].marks
            if value > marks.setdefault(name, value):
                marks[name] = value
                self._progress(text)

    def groups(self, kept: int, rows: int, in_flight: int) -> None:
        """What a look at the rollouts of a step found.

        Args:
            kept: groups finished and not thrown away.
            rows: responses there are, of groups that were not thrown away.
            in_flight: groups that are being generated, or wait for it.
        """
        with self._lock:
            phase = self._phases[-1]
            if kept > phase.marks.get("kept", -1):
                phase.failed = 0
            self._counts = f"{kept} groups kept, {in_flight} in flight, {rows} responses"
            self.mark("kept", kept, f"{kept} groups were kept")
            self.mark("rows", rows, f"{rows} responses were there")
            self.mark("settled", -in_flight, f"{in_flight} groups were left in flight")

    def failed(self, groups: int) -> None:
        """So many groups were thrown away and replaced because their responses failed."""
        with self._lock:
            self._phases[-1].failed += groups

    def died(self, deaths: Iterable[tuple[str, str, str]]) -> list[Death]:
        """Take note of processes that died; those that are new.

        Args:
            deaths: of each the key, who it was, and why it died.
        """
        with self._lock:
            fresh = []
            for key, who, why in deaths:
                if key not in self._deaths:
                    self._deaths[key] = Death(who, why, self._clock())
                    fresh.append(self._deaths[key])
            return fresh

    @property
    def where(self) -> str:
        """The present phase."""
        return self._phases[-1].name

    @property
    def outermost(self) -> str:
        """Start-up, training or shut-down."""
        return self._phases[0].name

    def verdict(self) -> Verdict | None:
        """Why the run has to end now, or None."""
        with self._lock:
            now, inner = self._clock(), self._phases[-1]
            limit = self._limit(inner.name)
            if self._has_died(now):
                return self._verdict("died", now, self._settings.dead_process_s)
            most = self._settings.failed_batches
            if most is not None and self._batch and inner.failed >= most * self._batch:
                return self._verdict("failing", now, limit)
            return self._verdict("stalled", now, limit) if now - self._moved > limit else None

    def _has_died(self, now: float) -> bool:
        if not self._deaths or self.outermost == SHUT_DOWN or any(phase.name in PATIENT for phase in self._phases):
            return False
        return now - min(death.seen for death in self._deaths.values()) > self._settings.dead_process_s

    def _limit(self, name: str) -> float:
        outermost = {START_UP: self._settings.start_up_limit_s, SHUT_DOWN: self._settings.shut_down_limit_s}
        limit = outermost.get(self.outermost, self._settings.limit_s)
        return max(limit, SLACK * self._longest.get(name, 0.0))

    def _progress(self, text: str) -> None:
        now, name = self._clock(), self.where
        self._longest[name] = max(now - self._moved, self._longest.get(name, 0.0))
        self._moved, self._last = now, text

    def _leave(self, phase: Phase) -> None:
        if phase in self._phases:
            self._progress(f"{phase.name} ended")
            del self._phases[self._phases.index(phase) :]

    def _verdict(self, kind: str, now: float, limit: float) -> Verdict:
        inner = self._phases[-1]
        return Verdict(
            kind=kind,
            phase=inner.name,
            outer=tuple(phase.name for phase in self._phases[:-1]),
            step=self.step,
            phase_s=now - inner.began,
            idle_s=now - self._moved,
            limit_s=limit,
            last=self._last,
            deaths=tuple(self._deaths.values()),
            failed=inner.failed,
            counts=self._counts,
        )

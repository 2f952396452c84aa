"""The threads that watch a run from within the trainer's process, and end it.

One thread asks Ray who died, and may be stuck in that for ever; another looks at the clock, asks nobody, and ends the
run when the ledger says so: stacks and a report first, within a limit; then KeyboardInterrupt in the main thread, so
that verl closes what it has open and the driver gets our error; then, if that has no effect, the end of the process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.run.watchdog import report as texts
from verl_ext.run.watchdog import stacks
from verl_ext.run.watchdog.interrupt import Interrupter, leave
from verl_ext.run.watchdog.ledger import PATIENT, SHUT_DOWN, START_UP, TRAINING, Ledger, Verdict
from verl_ext.run.watchdog.settings import WatchdogSettings

TICK_S = 1.0
LOOK_S = 2.0
STACKS_S = 15.0
LEAVE_S = 20.0


@dataclass
class Actions:
    """What the watchdog does to the world; tests give it others.

    Attributes:
        dead: processes that died, of `actors.dead`; given the ids of the actors that count, or None.
        living: ids of the actors of the job that have not died; some may still be starting.
        started: how many of them run.
        beats: micro-batches that the workers have done.
        stacks: name -> stacks of every process, and sentences on what could not be seen.
        interrupt: raises KeyboardInterrupt in the main thread.
        leave: ends the process.
        say: writes to the log.
    """

    dead: Callable[[set[str] | None], Sequence[tuple[str, str, str]]]
    living: Callable[[], set[str]]
    started: Callable[[], int]
    beats: Callable[[], int]
    stacks: Callable[[], tuple[dict[str, str], list[str]]]
    interrupt: Callable[[], Any]
    leave: Callable[[], None]
    say: Callable[[str], None]


def on_ray(settings: WatchdogSettings) -> Actions:
    """The actions in a Ray actor of verl's. To be called in its main thread."""
    from verl_ext.run.watchdog import actors

    return Actions(
        dead=lambda vital: actors.dead(settings.ignore_actors, vital),
        living=actors.living,
        started=lambda: len(actors.alive()),
        beats=actors.beats,
        stacks=lambda: actors.all_stacks(actors.alive(), STACKS_S),
        interrupt=Interrupter().raise_in_main,
        leave=leave,
        say=say,
    )


def say(text: str) -> None:
    """To the log, at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Watchdog:
    """Watches until `stop`.

    Args:
        ledger: what the run is doing.
        settings: the limits.
        actions: what is done.
        folders: where stacks are written: the first that can be.
    """

    def __init__(self, ledger: Ledger, settings: WatchdogSettings, actions: Actions, folders: Sequence[Path]) -> None:
        self.ledger, self._settings, self._do, self._folders = ledger, settings, actions, folders
        self.verdict: Verdict | None = None
        self._written: Path | None = None
        self._vital: set[str] | None = None
        self._stop, self._over = threading.Event(), threading.Event()

    def start(self) -> None:
        for work in (self._observe, self._watch):
            threading.Thread(target=work, daemon=True, name=f"verl_ext-watchdog{work.__name__}").start()

    def stop(self) -> None:
        """The run has ended, or is about to by itself."""
        self._stop.set()
        self._over.set()

    def train(self) -> None:
        """Start-up is over. Actors that come from now on are not verl's, and the run can do without them."""
        self.ledger.become(TRAINING)
        self._vital = self._do.living()

    def wind_up(self) -> None:
        """Training is over, normally or not."""
        self.ledger.become(SHUT_DOWN)

    def look(self) -> None:
        """Ask who died, what the workers have done, and how many live while they are being started."""
        for death in self.ledger.died(self._do.dead(self._vital)):
            self._do.say(texts.notice(death, self.ledger.where, self._settings.dead_process_s))
        if self.ledger.outermost == START_UP:
            count = self._do.started()
            self.ledger.mark("actors", count, f"{count} Ray actors were running")
        self.ledger.mark("beats", self._do.beats(), "a micro-batch was done")

    def _observe(self) -> None:
        failed = False
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # whatever Ray raises when it is in trouble; the clock goes on without it
                if not failed:
                    self._do.say(f"{texts.HEAD} Ray cannot be asked who died: {type(error).__name__}: {error}")
                failed = True

    def _watch(self) -> None:
        while not self._stop.wait(TICK_S):
            verdict = self.ledger.verdict()
            if verdict is not None:
                self.end(verdict)
                return

    def end(self, verdict: Verdict) -> None:
        """Report, then end the run."""
        # What hangs while it writes a checkpoint hangs on that disk.
        paths, silent = self._collect(self._folders[::-1] if verdict.phase in PATIENT else self._folders)
        text = texts.report(verdict, paths, silent)
        self._do.say(text)
        if paths:
            self._written = paths[0].parent
            (self._written / "report.txt").write_text(text + "\n", encoding="utf-8")
        if self._stop.is_set():
            return
        self.verdict = verdict
        self._do.interrupt()
        if not self._over.wait(LEAVE_S):
            self._do.say(f"{texts.HEAD} the main thread did not end within {LEAVE_S:.0f} s; its process is ended")
            self._do.leave()

    def error(self) -> texts.WatchdogError | None:
        """What the run ends with, if it was ended."""
        if self.verdict is None:
            return None
        where = f"; report and stacks are in {self._written}" if self._written else "; the report is in the log above"
        return texts.WatchdogError(texts.sentence(self.verdict) + where)

    def _collect(self, folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
        """Files of stacks, and what could not be looked at; whatever hangs in this is left hanging."""
        silent: list[str] = []
        paths: list[Path] = []

        def collect() -> None:
            try:
                stacks_, silent_ = self._do.stacks()
                silent.extend(silent_)
                folder = stacks.first_writable(folders) / time.strftime("%Y%m%d-%H%M%S")
                paths.extend(stacks.write(folder, stacks_))
            except Exception as error:  # the report matters more than the stacks
                silent.append(f"not to be had: {type(error).__name__}: {error}")

        thread = threading.Thread(target=collect, daemon=True, name="verl_ext-watchdog-stacks")
        thread.start()
        thread.join(STACKS_S + 5)
        if thread.is_alive():
            silent.append(f"not all stacks were to be had within {STACKS_S + 5:.0f} s")
        return list(paths), list(silent)


_current: Watchdog | None = None


def current() -> Watchdog | None:
    """The watchdog of this process."""
    return _current


def set_current(watchdog: Watchdog | None) -> None:
    """Make it the watchdog of this process."""
    global _current
    _current = watchdog


def phase(name: str) -> AbstractContextManager[None]:
    """A phase of the run that is watched in this process, if one is."""
    return _current.ledger.phase(name) if _current is not None else nullcontext()

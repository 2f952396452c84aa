"""A job from its submission to its end: the log, the progress line, further attempts, and Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from verl_ext.cluster.submission import client as ray_jobs
from verl_ext.cluster.submission.job import Job
from verl_ext.cluster.submission.progress import JobState, ProgressLine
from verl_ext.cluster.submission.restart import Outcome, decide
from verl_ext.live.logs import error_excerpt
from verl_ext.process import stop_signals_raise
from verl_ext.run_report.attempts import first_trained
from verl_ext.run_report.history import Record

INTERRUPTED = 130
SERVER_LOST = 1


def _ask() -> bool | None:
    """Whether to stop the job; None where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    sys.stderr.write("stop the job (s), or leave it running (l, the default)? ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower().startswith("s")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@dataclass
class Supervisor:
    """Runs a job's attempts.

    Attributes:
        job: what is submitted.
        client: of the job server.
        address: of the job server, for the commands that are told.
        console: for everything but the log, which goes to the standard output.
        write: takes a line of the log.
        ask: see `_ask`.
        delay: seconds before a further attempt, in which Ray frees what the last one held.
    """

    job: Job
    client: Any
    address: str
    console: Console
    write: Callable[[str], None] = _write
    ask: Callable[[], bool | None] = _ask
    delay: float = 10.0
    _identity: str = field(default="", init=False)
    _running: bool = field(default=False, init=False)
    _reached: int = field(default=0, init=False)

    def run(self) -> int:
        """Submit, follow, try again where that helps; the job's exit code, 130 when interrupted."""
        name, attempt = ray_jobs.new_identity(self.job.name), 0
        with stop_signals_raise():
            try:
                while True:
                    self.submit(name if attempt == 0 else f"{name}-r{attempt}")
                    outcome, state = self._follow()
                    if not self._again(outcome, state, attempt):
                        return outcome.exit_code
                    attempt += 1
                    time.sleep(self.delay)
            except KeyboardInterrupt:
                return self._interrupted()
            except ray_jobs.ServerLostError as error:
                self._say(f"the job server at {self.address} is lost: {error}")
                self._say("the job may be running still, and is not restarted; to look again:")
                self._commands()
                return SERVER_LOST

    def detached(self) -> int:
        """Submit, and tell how to get back to the job."""
        self.submit(ray_jobs.new_identity(self.job.name))
        self._commands()
        return 0

    def submit(self, identity: str) -> None:
        """Submit one attempt."""
        # Known before the request: an interruption in its middle must be able to name the job.
        self._identity, self._running = identity, True
        ray_jobs.submit(self.client, self.job, identity)
        self._say(f"submitted {identity} to {self.address}")

    def _follow(self) -> tuple[Outcome, JobState]:
        state = JobState(self.job.steps)
        with ProgressLine(self.console, state, sys.stdout.isatty()) as progress:

            def take(line: str) -> None:
                line = self.job.environment.mask(line)
                self.write(line)
                record = state.feed(line)
                if record is not None and len(state.records) == 1:
                    self._replaced(record)
                progress.show(record)

            outcome = ray_jobs.LogReader(self.client, self._identity, take).follow()
        self._running = False
        if state.records:
            self._reached = state.step
        return outcome, state

    def _replaced(self, record: Record) -> None:
        """Say which steps of the attempt before are lost, at the first step that an attempt logs."""
        first = first_trained(record.step, record.values)
        if first <= self._reached:
            void = f"steps {first} to {self._reached} logged before are void"
            self._say(f"{self._identity} began at step {first}: {void}")

    def _again(self, outcome: Outcome, state: JobState, attempt: int) -> bool:
        """Say how an attempt ended; whether there is another one."""
        most = self.job.max_restarts
        if outcome.status == "SUCCEEDED":
            self._say(f"{self._identity} succeeded{f' at step {state.step}' if state.step else ''}")
            return False
        self._say(f"{self._identity}: {outcome.status}, exit code {outcome.exit_code}, {_where(state)}")
        lines = error_excerpt(state.tail) if outcome.code is not None else [outcome.message]
        for line in lines:
            self._say(f"  {self.job.environment.mask(line)}")
        if most == 0:
            return False
        decision = decide(outcome, state.tail)
        if not decision.restart:
            self._say(f"not restarted: {decision.reason}")
        elif attempt == most:
            self._say(f"not restarted: all {most} restarts are used up (the last failure may pass: {decision.reason})")
        else:
            self._say(f"restart {attempt + 1} of {most} in {self.delay:.0f} s: {decision.reason}")
            self._say(f"  the trainer resumes from the last checkpoint in {self.job.checkpoints}, if there is one")
        return decision.restart and attempt < most

    def _interrupted(self) -> int:
        """Ask once what becomes of the job."""
        if not self._running:
            self._say("interrupted; no job is running, and none is started again")
            return INTERRUPTED
        try:
            stop = self.ask()
        except KeyboardInterrupt:
            stop = None
        if stop:
            ended = ray_jobs.stop(self.client, self._identity)
            self._say(f"{self._identity} {'is stopped' if ended else 'was told to stop, and has not ended yet'}")
        else:
            self._say(f"interrupted; {self._identity} is left running, and nobody restarts it")
            self._commands()
        return INTERRUPTED

    def _commands(self) -> None:
        for what in ("status", "logs --follow", "stop"):
            verb, _, option = what.partition(" ")
            words = " ".join(word for word in (verb, option, f"--address {self.address}", self._identity) if word)
            self._say(f"  ray job {words}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _where(state: JobState) -> str:
    return f"after step {state.step}" if state.records else "before its first step"

"""Whether a failed job is worth another attempt: only if what ended it may pass."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verl_ext.live.logs import error_excerpt

TEMPORARY = 75
"""Exit code by which a program says that trying again may help (``EX_TEMPFAIL`` of sysexits.h)."""

FOREVER = (
    r"ConfigError|ConfigCompositionException|OverrideParseException|MissingConfigException|InstantiationException",
    r"ConfigAttributeError|ConfigKeyError|MissingMandatoryValue|Interpolation\w*Error|ValidationError",
    r"ModuleNotFoundError|ImportError|SyntaxError|NameError|UnsupportedVLLMError|NoVLLMError|UntaggedRankError",
    r"the configuration (?:cannot run|cannot be composed|needs this plugin)|is not in struct",
    r"RepositoryNotFoundError|GatedRepoError|FileNotFoundError|No space left on device|PermissionError",
    r"Total available GPUs .* is less than",
)
"""What stands in the errors of a job that would fail again in the same way."""

PASSING = (
    r"\b(?:ActorDiedError|ActorUnavailableError|RayActorError|NodeDiedError|WorkerCrashedError|OwnerDiedError)",
    r"\b(?:ObjectLostError|ObjectFetchTimedOutError|ReferenceCountingAssertionError|RaySystemError|RpcError)",
    r"\bray\.exceptions\.(?:OutOfMemoryError|GetTimeoutError)|killed due to the node running low on memory",
    r"\bDistBackendError|NCCL error|ncclSystemError|ncclRemoteError|ncclInternalError|Watchdog caught collective",
    r"Connection (?:reset|closed|refused)|Connection(?:Reset|Refused|Aborted)Error|BrokenPipeError|RemoteDisconnected",
    r"\b(?:TimeoutError|ReadTimeout|ConnectTimeout|EngineDeadError|StaleFileHandle)|Stale file handle",
    r"uncorrectable ECC|CUDA error: (?:unspecified launch failure|an illegal instruction|ECC)|fallen off the bus|Xid",
)
"""What stands in the errors of a job that lost a process, a machine or a connection."""

_FOREVER, _PASSING = (re.compile("|".join(words)) for words in (FOREVER, PASSING))
_LOST_SUPERVISOR = (
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
)
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV, signal.SIGHUP)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: Ray's: SUCCEEDED, FAILED or STOPPED.
        code: exit code of what the job ran, negative for a signal; None where Ray has none.
        error_type: Ray's; None where there is none.
        message: Ray's.
    """

    status: str
    code: int | None = None
    error_type: str | None = None
    message: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code to pass on, as a shell would: 128 + n for signal n, 1 where a failure has none.

        Example:
            >>> [Outcome("FAILED", code).exit_code for code in (3, -9, None)], Outcome("STOPPED").exit_code
            ([3, 137, 1], 143)
        """
        if self.status == "SUCCEEDED":
            return 0
        if self.code:
            return self.code if self.code > 0 else 128 - self.code
        return 128 + signal.SIGTERM if self.status == "STOPPED" else 1


@dataclass(frozen=True)
class Decision:
    """Whether to try again, and why."""

    restart: bool
    reason: str


def decide(outcome: Outcome, log: Iterable[str]) -> Decision:
    """Whether a job that ended so may go through when it is started again.

    In this order: stopped by someone, no; the job's process or Ray's supervisor of it was lost, yes; the errors of the
    log name a fault that stays, no; they name a loss that may pass, yes; anything else, no, since an unknown fault
    is more often in the configuration or the code than in the cluster.

    Args:
        outcome: how it ended.
        log: the lines of its log, the last ones at least.

    Example:
        >>> decide(Outcome("FAILED", 137), [])
        Decision(restart=True, reason='its process was ended by SIGKILL')
        >>> decide(Outcome("FAILED", 1), ["Traceback (most recent call last)", "ValueError: no"]).restart
        False
    """
    if outcome.status != "FAILED":
        return Decision(False, "it was stopped" if outcome.status == "STOPPED" else "it succeeded")
    if outcome.error_type in _LOST_SUPERVISOR:
        return Decision(True, f"Ray lost the process that watches the job ({outcome.error_type})")
    if outcome.code is None:
        return Decision(False, f"it never ran: {outcome.error_type or 'Ray gives no reason'}")
    if (number := outcome.exit_code - 128) in _SIGNALS:
        return Decision(True, f"its process was ended by {signal.Signals(number).name}")
    if outcome.code == TEMPORARY:
        return Decision(True, f"it asks to be tried again (exit code {TEMPORARY})")
    return _by_errors(error_excerpt(log, most=6))


def _by_errors(errors: Sequence[str]) -> Decision:
    for pattern, restart in ((_FOREVER, False), (_PASSING, True)):
        line = next((line for line in errors if pattern.search(line)), None)
        if line is not None:
            return Decision(restart, line.strip()[:200])
    return Decision(False, "nothing in the log says that it would go better the next time")

"""Sessions that nobody judged: verifier errors and timeouts, and sessions that failed before they came back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_ext.run.guards.incident import Incident
from verl_ext.run.guards.settings import NODE, GuardSettings

UNJUDGED = ("error", "timeout")
SHOWN = 3
UNKNOWN = "unknown; the log of the agent loop workers has it"


@dataclass(frozen=True)
class Judged:
    """How the sessions of a step came out.

    Attributes:
        expected: sessions that the step asked for.
        failed: sessions that did not come back.
        outcomes: outcome -> number of sessions, of those that report one.
        details: what the verifier says about errors and timeouts.
        concerned: keys of the rows with an error or a timeout.
    """

    expected: int
    failed: int
    outcomes: Mapping[str, int]
    details: Sequence[str] = ()
    concerned: Sequence[str] = ()

    @property
    def unjudged(self) -> int:
        return self.failed + sum(self.outcomes.get(name, 0) for name in UNJUDGED)

    @property
    def share(self) -> float:
        """Of the sessions asked for, those without a judgement."""
        return self.unjudged / self.expected if self.expected else 0.0

    def explain(self, causes: Sequence[str]) -> str:
        """The counts, and the most frequent causes."""
        counts = [f"{self.failed} failed", *(f"{self.outcomes.get(name, 0)} {name}" for name in UNJUDGED)]
        lines = [f"{self.unjudged} of {self.expected} sessions have no judgement ({', '.join(counts)})"]
        lines += [f"  - {number} x {cause}" for cause, number in Counter([*causes, *self.details]).most_common(SHOWN)]
        return "\n".join(lines)


def judge(keys: Sequence[str], verdicts: Sequence[Mapping[str, Any]], expected: int) -> Judged:
    """Count a step's sessions.

    Args:
        keys: of the rows that came back, `{uid}_{session}_{index}`, without padding rows.
        verdicts: what the reward function returned for each.
        expected: sessions that the step asked for.
    """
    sessions = {key.rsplit("_", 1)[0]: (key, verdict) for key, verdict in zip(keys, verdicts, strict=True)}
    outcomes = Counter(str(verdict["outcome"]) for _, verdict in sessions.values() if "outcome" in verdict)
    bad = [(key, verdict) for key, verdict in sessions.values() if verdict.get("outcome") in UNJUDGED]
    details = [str(verdict["detail"]) for _, verdict in bad if verdict.get("detail")]
    expected = max(expected, len(sessions))
    return Judged(expected, expected - len(sessions), dict(outcomes), details, [key for key, _ in bad])


def incident(
    judged: Judged, causes: Sequence[str], settings: GuardSettings, step: int, streak: int, reward: str
) -> Incident | None:
    """The incident of a step with too many sessions that nobody judged, or None.

    A step without a single judgement stops the run whatever the action is: there is nothing to learn from.

    Args:
        judged: the step's sessions.
        causes: why sessions failed.
        settings: of the guards.
        step: the training step.
        streak: steps in a row over the limit, this one included; a warning is given at the first of them only.
        reward: the reward function, for the message.
    """
    limit = settings.verifier_error_share
    if not over(judged, limit):
        return None
    action = "stop" if judged.share == 1 else settings.verifier_action
    if action == "warn" and streak > 1:
        return None
    message = (
        f"{judged.explain(causes)}\nThe limit is a share of {limit:g} ({NODE}.verifier_error_share). The reward "
        f"function is {reward}."
    )
    figures = {"share": judged.share, "expected": judged.expected, "failed": judged.failed, **judged.outcomes}
    return Incident("verifier", step, action, message, figures, {"verifier_error_share": limit}, judged.concerned)


def over(judged: Judged, limit: float | None) -> bool:
    """Whether more sessions lack a judgement than allowed."""
    return limit is not None and (judged.share > limit or judged.share == 1)


class SessionFailures:
    """Groups of which no session came back, one after the other: what verl would refill for ever.

    Args:
        limit: groups in a row at which the run stops.
        reward: the reward function, for the message.
    """

    def __init__(self, limit: int, reward: str) -> None:
        self.limit, self.reward = limit, reward
        self.causes: dict[str, list[str]] = {}
        self._failed: dict[str, list[str]] = {}
        self._came_back: set[str] = set()
        self._before: set[str] = set()

    def observe(
        self, failed: Mapping[str, Sequence[str]], came_back: Iterable[str], in_flight: int, validation: bool
    ) -> str | None:
        """Look at the groups of one partition.

        Args:
            failed: uid -> causes, of the groups of which at least one session failed.
            came_back: uids of the groups that have rows.
            in_flight: groups that are still running.
            validation: whether these are validation's prompts: nothing is refilled there, and a single sound group
                is enough to go on.

        Returns:
            Why the run must stop, naming the causes; None where it may go on.
        """
        have = set(came_back)
        empty = {uid: list(causes) for uid, causes in failed.items() if uid not in have}
        if validation:
            return self._message(empty, "of validation") if empty and not have and not in_flight else None
        self.causes.update({uid: list(causes) for uid, causes in failed.items()})
        if have - self._came_back:
            # What failed up to this success is no row of failures any more, although it may still be there to see.
            self._failed.clear()
            self._before = set(empty)
        self._came_back = have
        self._failed.update({uid: causes for uid, causes in empty.items() if uid not in self._before})
        return self._message(self._failed, "in a row") if len(self._failed) >= self.limit else None

    def take(self) -> list[str]:
        """Causes of the sessions that failed since the last call."""
        found = [cause for causes in self.causes.values() for cause in causes]
        self.causes.clear()
        return found

    def _message(self, groups: Mapping[str, Sequence[str]], which: str) -> str:
        causes = Counter(cause for found in groups.values() for cause in (found or [UNKNOWN]))
        listed = "\n".join(f"  - {number} x {cause}" for cause, number in causes.most_common(SHOWN))
        return (
            f"{len(groups)} groups {which} came back without a single response, so there is nothing to train on:\n"
            f"{listed}\nThe reward function is {self.reward}. The run is stopped; {self.limit} such groups in a row "
            "are the limit, verl_ext.guards.failed_groups."
        )

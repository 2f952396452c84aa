"""Steps in which no prompt had a better and a worse response: whatever the loss, they teach nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from verl_ext.rewards.verifiers import OUTCOMES
from verl_ext.run.guards.incident import Incident
from verl_ext.run.guards.settings import NODE, GuardSettings

# Rewards that differ by less are equal, as for our estimators: with them, too, the prompt has nothing to teach.
LEAST_SPREAD = 1e-6
# Characters of a text in a message; of a longer one both ends are shown, since the answer stands in the last line.
SHOWN = 600
_OF_VALIDATION = re.compile(r"val-core/(.+)/[^/]+/mean@\d+")


@dataclass(frozen=True)
class Graded:
    """A response and what it earned.

    Attributes:
        key: of its row, `{uid}_{session}_{index}`.
        reward: the sum of its token rewards, before any KL penalty.
        right: whether it was judged to be right, see `is_right`.
    """

    key: str
    reward: float
    right: bool


@dataclass(frozen=True)
class Groups:
    """Prompts and how the rewards of their responses lie.

    Attributes:
        number: prompts of which at least one response came back.
        all_right: those with equal rewards whose responses are all right.
        all_wrong: those with equal rewards of whose responses none is right.
        without_spread: those with equal rewards: the two above, and those whose equal rewards stand on both verdicts.
        least, most: the smallest and the greatest reward of all.
    """

    number: int = 0
    all_right: int = 0
    all_wrong: int = 0
    without_spread: int = 0
    least: float = math.inf
    most: float = -math.inf

    def __add__(self, other: Groups) -> Groups:
        return Groups(
            self.number + other.number,
            self.all_right + other.all_right,
            self.all_wrong + other.all_wrong,
            self.without_spread + other.without_spread,
            min(self.least, other.least),
            max(self.most, other.most),
        )

    def shares(self) -> dict[str, float]:
        """The metrics; none where there are no prompts."""
        names = ("without_spread", "all_right", "all_wrong") if self.number else ()
        return {f"train/groups_{name}": getattr(self, name) / self.number for name in names}

    def teach(self, grouped: bool) -> bool:
        """Whether some reward differs from another that the estimator compares it with: of its prompt, or of any."""
        return self.without_spread < self.number if grouped else differ(self.least, self.most)


def differ(least: float, most: float) -> bool:
    """Whether two rewards tell their responses apart; one that is NaN tells nothing."""
    return most - least > LEAST_SPREAD


def is_right(reward: float, verdict: Mapping[str, Any]) -> bool:
    """Whether a response is right: the verifier's `outcome`, else a number `acc` > 0, else a reward > 0."""
    if verdict.get("outcome") in OUTCOMES:
        return verdict["outcome"] == "correct"
    try:
        return float(verdict["acc"]) > 0
    except (KeyError, TypeError, ValueError):
        return reward > 0


def count(rows: Iterable[Graded]) -> Groups:
    """Sort the responses of a batch by prompt, and count; rows of padding must not be among them.

    Example:
        >>> count([Graded("a_0_0", 0, False), Graded("a_1_0", 0, False), Graded("b_0_0", 1, True)]).all_wrong
        1
    """
    prompts = groupby(sorted(rows, key=_prompt), key=_prompt)
    return sum((_count_one(list(group)) for _, group in prompts), start=Groups())


def _prompt(row: Graded) -> str:
    return row.key.split("_")[0]


def _count_one(rows: list[Graded]) -> Groups:
    finite = [row.reward for row in rows if math.isfinite(row.reward)]
    least, most = min(finite, default=math.inf), max(finite, default=-math.inf)
    if differ(least, most):
        return Groups(1, least=least, most=most)
    right = sum(row.right for row in rows)
    return Groups(1, int(right == len(rows)), int(right == 0), 1, least, most)


@dataclass
class SignalWatch:
    """Counts steps without signal.

    Attributes:
        steps: steps in a row at which the watch fires.
        streak: of them so far.
    """

    steps: int
    streak: int = 0

    def observe(self, signal: bool) -> bool:
        """Take one step in; whether it completes the streak. A longer one does not fire again."""
        self.streak = 0 if signal else self.streak + 1
        return self.streak == self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"streak": self.streak}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.streak = state["streak"]


@dataclass(frozen=True)
class Example:
    """A graded response, for a person.

    Attributes:
        key: of its row.
        response, ground_truth: texts; None where the batch has none.
        reward: the sum of its token rewards.
        verdict: what the reward function returned beside it.
    """

    key: str
    response: str | None
    ground_truth: str | None
    reward: float
    verdict: Mapping[str, Any]

    def explain(self) -> str:
        """Lines of a message."""
        lines = [f"One of them ({self.key}), as it was graded:"]
        for name in ("response", "ground_truth"):
            text = getattr(self, name)
            lines.append(f"  {name.replace('_', ' ')}: {'not known' if text is None else shortened(text)}")
        judged = ", ".join(f"{key}={self.verdict[key]}" for key in ("outcome", "acc", "detail") if key in self.verdict)
        return "\n".join([*lines, f"  reward: {self.reward:g}{f' ({judged})' if judged else ''}"])


def shortened(text: str) -> str:
    """A text in quotation marks on one line; only both ends of a long one."""
    cut = len(text) - SHOWN
    if cut <= 0:
        return json.dumps(text, ensure_ascii=False)
    head, tail = (json.dumps(part, ensure_ascii=False) for part in (text[: SHOWN // 2], text[-SHOWN // 2 :]))
    return f"{head} ... {cut} characters ... {tail}"


def example_of(rows: Iterable[Graded]) -> Graded:
    """The response to show: one that is not right, where there is one."""
    return min(rows, key=lambda row: row.right)


def note_of_validation(metrics: Mapping[str, Any], reward: str) -> str | None:
    """What to say of a validation before training: its scores are 0 for every data source; None where one is not.

    Args:
        metrics: of the validation, named as verl does.
        reward: the reward function, for the message.
    """
    scores = {found[1]: value for name, value in metrics.items() if (found := _OF_VALIDATION.fullmatch(name))}
    if not scores or any(scores.values()):
        return None
    return (
        f"note: before training, validation scores 0 on {', '.join(sorted(scores))}. Either the model solves nothing "
        f"yet, or the reward function, {reward}, cannot read its answers; trainer.validation_data_dir=FOLDER keeps them"
    )


def incident(
    groups: Groups, example: Example, settings: GuardSettings, step: int, period: str, reward: str
) -> Incident:
    """The incident of a streak that is complete.

    Args:
        groups: the last prompts of the streak.
        example: one of their responses.
        settings: of the guards.
        step: the training step.
        period: what the streak consists of, for the message: `steps`.
        reward: the reward function, for the message.
    """
    message = (
        f"for {settings.no_signal_steps} {period} in a row no response earned more than another that it is compared "
        f"with, so that there is nothing to learn. Of the last {groups.number} prompts {groups.all_right} were "
        f"answered right by every response, {groups.all_wrong} by none.\n{example.explain()}\n"
        f"The reward function is {reward}. If the response is right, it cannot read it: compare the form of the answer "
        "with what the prompt asks for and with the ground truth. If all are right, the problems are too easy, and if "
        f"all are wrong, too hard. This is said once a streak ({NODE}.no_signal_steps, no_signal_action)."
    )
    figures = {**vars(groups), "example": vars(example)}
    limits = {name: getattr(settings, name) for name in ("no_signal_steps", "no_signal_action")}
    return Incident("no_signal", step, settings.no_signal_action, message, figures, limits, [example.key])

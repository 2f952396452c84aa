"""The watch on entropy collapse: low steps in a row, and which checkpoint was the last good one.

The entropy measured in step t is that of the policy after update t - 1, which is what checkpoint t - 1 holds. So a
checkpoint is known to be good only in the step after it, and the checkpoint of the step before the first low
measurement already holds the collapsed policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from verl_ext.run.guards.incident import Incident
from verl_ext.run.guards.settings import GuardSettings


@dataclass
class EntropyWatch:
    """Counts low steps.

    Attributes:
        floor: mean entropy below which a step is low, nats.
        steps: low steps in a row at which the watch fires.
        streak: low steps in a row so far.
        began: the first of them.
        good: checkpoints whose policy was measured and not low, ascending.
        rollbacks: made so far.
    """

    floor: float
    steps: int
    streak: int = 0
    began: int | None = None
    good: list[int] = field(default_factory=list)
    rollbacks: int = 0

    def observe(self, step: int, mean: float, saved: Callable[[int], bool]) -> bool:
        """Take one step's measurement in.

        Args:
            step: the training step.
            mean: entropy of its sampled tokens, nats. NaN is low: it is no proof of a sound policy.
            saved: whether the checkpoint of a step is on disk.

        Returns:
            Whether the watch fires: at the step that completes the streak, and not again until a step is not low.
        """
        if mean >= self.floor:
            self.streak, self.began = 0, None
            if step > 1 and saved(step - 1):
                self.good.append(step - 1)
            return False
        self.streak += 1
        self.began = step if self.streak == 1 else self.began
        return self.streak == self.steps

    def last_good(self, saved: Callable[[int], bool]) -> int | None:
        """The latest good checkpoint that is still on disk, or None."""
        return next((step for step in reversed(self.good) if saved(step)), None)

    def rolled_back(self) -> None:
        """A new start after a rollback."""
        self.streak, self.began = 0, None
        self.rollbacks += 1

    def state_dict(self) -> dict[str, Any]:
        return {"streak": self.streak, "began": self.began, "good": list(self.good), "rollbacks": self.rollbacks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.streak, self.began = state["streak"], state["began"]
        self.good, self.rollbacks = list(state["good"]), state["rollbacks"]


def incident(
    watch: EntropyWatch, settings: GuardSettings, step: int, mean: float, saved: Callable[[int], bool]
) -> Incident | None:
    """Take one step's entropy in, and decide; None while the watch is silent.

    Args:
        watch: of the run.
        settings: of the guards.
        step, mean, saved: as for `EntropyWatch.observe`.

    Returns:
        The incident. With action `rollback` its figures hold the step of the `checkpoint` to go back to.
    """
    if not watch.observe(step, mean, saved):
        return None
    message = (
        f"the mean entropy of the sampled tokens is {mean:.4g} nats, and has been below {watch.floor:g} since step "
        f"{watch.began}: the policy has collapsed"
    )
    action, target = settings.entropy_action, None
    if action == "rollback":
        target = watch.last_good(saved)
        if watch.rollbacks >= settings.entropy_max_rollbacks:
            action = "stop"
            message += f". {watch.rollbacks} rollbacks have been made, all that entropy_max_rollbacks allows"
        elif target is None:
            action = "stop"
            message += (
                ". There is no checkpoint to go back to: none was saved of a policy whose entropy was measured in the "
                f"next step and not low (good ones so far: {watch.good or 'none'})"
            )
        else:
            message += f". The run goes back to checkpoint {target}, rollback {watch.rollbacks + 1}"
    figures = {"mean": mean, "checkpoint": target, **watch.state_dict()}
    limits = {name: getattr(settings, name) for name in ("entropy_floor", "entropy_steps", "entropy_max_rollbacks")}
    return Incident("entropy", step, action, message, figures, limits)


def checkpoints_needed(steps: int, save_freq: int) -> int:
    """How many checkpoints must be kept for a good one to be left when the watch fires.

    The watch fires at step f + n - 1 where f is the first low step. Checkpoints f - 1 ... f + n - 2 hold policies that
    were measured low, or not yet measured: n steps in a row, of which at most ceil(n / save_freq) are saved.

    >>> checkpoints_needed(steps=3, save_freq=1), checkpoints_needed(steps=3, save_freq=2)
    (4, 3)
    """
    return -(-steps // save_freq) + 1

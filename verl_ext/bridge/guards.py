"""The guards on verl's controller: around the advantages, the updates, and the replay buffer of `PPOTrainer`.

Bound after `verl_ext.bridge.controller`, so that these wraps are the outer ones: they see the batch as it goes to the
workers, and the error with which the watch on rollout against actor stops a run.

An update is left out where its batch is not sound (`skip`) or was sampled by a policy that has just been taken back
(`rollback`). verl's step goes on then: it saves what it would have saved, and pushes the weights to the rollout engine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.bridge import guards_batch, guards_sessions, guards_signal, polling
from verl_ext.rollout.mismatch import MismatchError
from verl_ext.run import settings as run_settings
from verl_ext.run import state as run_state
from verl_ext.run.checkpoint import layout
from verl_ext.run.guards import configuration, entropy, keeper, no_signal, nonfinite, verifier
from verl_ext.run.guards.incident import GuardError, Incident
from verl_ext.run.guards.nonfinite import Finding


def bind(trainer_base: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.v1.trainer_base`` has been imported."""
    cls = trainer_base.PPOTrainer
    init, compute, validate = cls.__init__, cls._compute_advantage, cls._validate

    @functools.wraps(init)
    def __init__(self: Any, config: Any) -> None:
        init(self, config)
        self.verl_ext_guards = Guards(self, trainer_base.tq)
        guards = self.verl_ext_guards
        guards_sessions.watch(self.replay_buffer, trainer_base.tq, guards.failures, guards.no_responses)
        if guards.signal is not None:
            guards_signal.watch(self.replay_buffer, guards.signal.taken_away)
        if run_settings.ours(config):
            polling.quicken(self.replay_buffer)

    @functools.wraps(compute)
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        guards = guards_of(self)
        if guards is None:
            return compute(self, batch, metrics)
        try:
            batch = compute(self, batch, metrics)
        except MismatchError as error:
            raise guards.mismatch(batch, error) from error
        guards.before_update(batch, metrics)
        return batch

    @functools.wraps(validate)
    def _validate(self: Any) -> dict[str, float]:
        found = validate(self)
        guards = guards_of(self)
        if guards is not None and guards.signal is not None and self.global_steps == 0:
            note = no_signal.note_of_validation(found, guards.reward)
            if note is not None:
                keeper.say(note)
        return found

    cls.__init__, cls._compute_advantage, cls._validate = __init__, _compute_advantage, _validate
    cls._update_critic = _guarded(cls._update_critic, "critic")
    cls._update_actor = _guarded(cls._update_actor, "actor")


def _guarded(update: Callable[..., Any], role: str) -> Callable[..., Any]:
    @functools.wraps(update)
    def guarded(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        guards = guards_of(self)
        if guards is None:
            return update(self, batch, metrics)
        if guards.leave_out:
            return batch
        batch = update(self, batch, metrics)
        guards.after_update(batch, metrics, role)
        return batch

    return guarded


def guards_of(trainer: Any) -> Guards | None:
    """The guards of a trainer; None for what was not made by `PPOTrainer.__init__`."""
    return vars(trainer).get("verl_ext_guards")


class Guards:
    """The guards of one trainer.

    Attributes:
        leave_out: whether the updates of the batch that is under way are left out.
        failures: the watch on groups that fail.
        signal: the watch on steps without signal; None in a run that is not ours.
    """

    def __init__(self, trainer: Any, tq: Any) -> None:
        self.trainer, self.tq, self.leave_out = trainer, tq, False
        config = trainer.config
        self.settings = run_settings.section(config, "guards")
        self.keeper = keeper.Keeper(self.settings, keeper.folder_of(config, self.settings), keeper.about(config))
        self.reward = configuration.reward_function(config)
        self.failures = verifier.SessionFailures(configuration.failed_groups(config, self.settings), self.reward)
        self.signal = guards_signal.Signal(self) if run_settings.ours(config) else None
        self._findings: Sequence[Finding] = ()
        run_state.register("guards", self.keeper)

    def before_update(self, batch: Any, metrics: dict[str, Any]) -> None:
        """Look at a batch that has its advantages.

        Raises:
            GuardError: a guard stops the run.
        """
        trainer, keeper, settings = self.trainer, self.keeper, self.settings
        self.leave_out = False
        found = guards_batch.inspect(self.tq, batch, trainer.config, configuration.sessions(trainer.config))
        self._findings = found.findings
        metrics["guards/verifier/unjudged_share"] = found.judged.share
        metrics["guards/nonfinite/values"] = sum(finding.counted for finding in found.findings)
        over = verifier.over(found.judged, settings.verifier_error_share)
        keeper.verifier_streak = keeper.verifier_streak + 1 if over else 0
        causes, streak = self.failures.take(), keeper.verifier_streak
        self.act(batch, verifier.incident(found.judged, causes, settings, trainer.global_steps, streak, self.reward))
        if settings.nonfinite_action != "off":
            self.act(batch, nonfinite.in_batch(found.findings, settings, trainer.global_steps, keeper.skipped))
        if self.signal is not None:
            self.signal.batch(batch, found.graded, metrics)
        if settings.entropy_floor is not None and found.entropy is not None and trainer.local_trigger_step == 0:
            self.act(batch, entropy.incident(keeper.entropy, settings, trainer.global_steps, found.entropy, self.saved))
        if found.entropy is not None:
            metrics["guards/entropy/mean"] = found.entropy
        metrics["guards/entropy/streak"] = keeper.entropy.streak
        metrics["guards/entropy/rollbacks"] = keeper.entropy.rollbacks
        metrics["guards/nonfinite/skipped"] = keeper.skipped

    def after_update(self, batch: Any, metrics: dict[str, Any], role: str) -> None:
        """Look at what an update of `actor` or `critic` reported.

        Raises:
            GuardError: loss or gradient are not finite, and the run is to stop.
        """
        settings, step = self.settings, self.trainer.global_steps
        if settings.nonfinite_action != "off":
            lost = nonfinite.reported(metrics, role, configuration.gradients_are_scaled(self.trainer.config))
            self.act(batch, nonfinite.in_update(lost, self._findings, settings, step, self.keeper.skipped))
            metrics["guards/nonfinite/skipped"] = self.keeper.skipped

    def mismatch(self, batch: Any, error: MismatchError) -> MismatchError:
        """The error with which the watch on rollout against actor stops the run, after its batch has been written."""
        limits = dict(self.trainer.config.algorithm.get("verl_ext", None) or {})
        found = Incident("mismatch", self.trainer.global_steps, "stop", str(error), {}, limits)
        return MismatchError(self._record(batch, found))

    def no_responses(self, message: str) -> GuardError:
        """The error that stops a run whose sessions all fail: there is a reason to keep, but no batch."""
        found = Incident(
            "verifier", self.trainer.global_steps, "stop", message, {}, {"failed_groups": self.failures.limit}
        )
        return GuardError(self.keeper.record(found, None))

    def saved(self, step: int) -> bool:
        """Whether the checkpoint of a step is on disk, and complete."""
        folder = self._checkpoint(step)
        return (folder / "actor").is_dir() and not (folder / layout.UNFINISHED).exists()

    def act(self, batch: Any, found: Incident | None) -> None:
        """Record what was found about a batch, and do what its action says.

        Raises:
            GuardError: the action is `stop`.
        """
        if found is None:
            return
        text = self._record(batch, found)
        if found.action == "stop":
            raise GuardError(text)
        if found.action == "skip":
            self.keeper.skipped += 1
            self.leave_out = True
        if found.action == "rollback":
            self._roll_back(found.figures["checkpoint"])
            self.leave_out = True

    def _roll_back(self, step: int) -> None:
        """Load a checkpoint into actor and critic. The rollout engine gets the weights at the end of verl's step."""
        trainer, folder = self.trainer, self._checkpoint(step)
        trainer.actor_rollout_wg.load_checkpoint(local_path=str(folder / "actor"), del_local_after_load=False)
        if trainer.use_critic:
            trainer.critic_wg.load_checkpoint(local_path=str(folder / "critic"), del_local_after_load=False)
        # A run that dies before its next checkpoint must not be resumed from one of the collapsed policy.
        layout.write_atomically(folder.parent / layout.TRACKER, str(step))
        self.keeper.entropy.rolled_back()

    def _checkpoint(self, step: int) -> Path:
        return Path(self.trainer.config.trainer.default_local_dir).absolute() / f"{layout.PREFIX}{step}"

    def _record(self, batch: Any, found: Incident) -> str:
        tokenizer, limit = self.trainer.tokenizer, self.settings.max_rows
        return self.keeper.record(found, lambda: guards_batch.columns(self.tq, batch, tokenizer, found.rows, limit))

"""What the guards of one run remember, and where they write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_ext.run.guards import incident
from verl_ext.run.guards.entropy import EntropyWatch
from verl_ext.run.guards.incident import Incident
from verl_ext.run.guards.no_signal import SignalWatch
from verl_ext.run.guards.settings import GuardSettings


class Keeper:
    """Counters of one run, saved with its checkpoints, and the writing of incidents.

    Args:
        settings: of the guards.
        folder: where incidents are written.
        about: of the run, for `reason.json`.
    """

    def __init__(self, settings: GuardSettings, folder: Path, about: Mapping[str, Any]) -> None:
        self.settings, self.folder, self.about = settings, folder, about
        self.entropy = EntropyWatch(settings.entropy_floor or 0.0, settings.entropy_steps)
        self.no_signal = SignalWatch(settings.no_signal_steps)
        self.skipped = 0
        self.verifier_streak = 0
        self.written = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "entropy": self.entropy.state_dict(),
            "no_signal": self.no_signal.state_dict(),
            "skipped": self.skipped,
            "verifier_streak": self.verifier_streak,
            "written": self.written,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.entropy.load_state_dict(state["entropy"])
        self.skipped, self.verifier_streak = state["skipped"], state["verifier_streak"]
        self.written = state["written"]
        if "no_signal" in state:  # older checkpoints lack it
            self.no_signal.load_state_dict(state["no_signal"])

    def record(self, found: Incident, columns: Callable[[], Mapping[str, Sequence[Any]]] | None) -> str:
        """Write an incident down and say so on stderr.

        A full disk must not hide why the run stops, so that it becomes part of the message.

        Args:
            found: what happened.
            columns: fetches the batch, called only if it is written; None where there is no batch.

        Returns:
            The message, and where the batch is.
        """
        text = f"guard '{found.guard}', step {found.step}: {found.message}"
        say(text)  # first, so that nothing that happens to the batch can hide it
        where = self._keep(found, columns if self.settings.write_batch else None)
        say(where)
        return f"{text}\n{where}"

    def _keep(self, found: Incident, columns: Callable[[], Mapping[str, Sequence[Any]]] | None) -> str:
        if self.written >= self.settings.max_written:
            return f"Nothing is kept of it: this run has written {self.written} folders, the limit (max_written)."
        self.written += 1
        try:
            target = incident.write(self.folder, found, columns() if columns else None, self.about)
        except OSError as error:
            return f"The batch could not be kept: {error}"
        return f"{'The batch and the reason are' if columns else 'The reason is'} kept in {target}"


def say(text: str) -> None:
    """To stderr, and not through logging, whose level verl raises."""
    sys.stderr.write(f"verl_ext: {text}\n")
    sys.stderr.flush()


def folder_of(config: Any, settings: GuardSettings) -> Path:
    """Where the incidents of a run go."""
    return Path(os.path.abspath(settings.folder or os.path.join(config.trainer.default_local_dir, "guards")))


def about(config: Any) -> dict[str, Any]:
    """What a replay has to know of the configuration: the loss, the estimator and what surrounds them."""
    from omegaconf import OmegaConf

    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    names = ("loss_agg_mode", "clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "entropy_coeff")
    more = ("use_kl_loss", "kl_loss_coef", "kl_loss_type", "ppo_mini_batch_size", "ppo_epochs", "strategy")
    return {
        "loss": {
            "policy_loss": OmegaConf.to_container(actor.policy_loss, resolve=True),
            **{name: actor.get(name, None) for name in (*names, *more)},
        },
        "algorithm": OmegaConf.to_container(config.algorithm, resolve=True),
        "rollout": {name: rollout.get(name, None) for name in ("n", "temperature", "top_p", "top_k")},
        "model": config.actor_rollout_ref.model.path,
    }

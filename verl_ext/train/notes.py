"""What a person should know before a run, although nothing is wrong with the configuration."""

from __future__ import annotations

from typing import Any

from verl_ext.train.fitness import ACTOR

WIDE_FOR_SEQUENCES = 0.05
"""Ratios of whole sequences stay within about 1e-3 of 1; GSPO's paper clips at 3e-4."""


def notes(config: Any) -> list[str]:
    """A clip range of tokens on a loss that clips the ratio of whole sequences."""
    from verl_ext.plugin import clip_range

    actor = config.actor_rollout_ref.actor
    low, high = clip_range(actor)
    if actor.policy_loss.get("loss_mode", "vanilla") != "gspo" or min(low, high) < WIDE_FOR_SEQUENCES:
        return []
    return [
        f"{ACTOR}.clip_ratio_low={low:g}, clip_ratio_high={high:g}: gspo's ratios of whole sequences hardly ever leave "
        f"so wide a range, so that nothing is clipped; its paper uses 3e-4 and 4e-4"
    ]

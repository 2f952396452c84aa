"""What a person should know before a run, although nothing is wrong with the configuration."""

from __future__ import annotations

from typing import Any

from verl_ext.sizing.layout import ACTOR

WIDE_FOR_SEQUENCES = 0.05
"""Ratios of whole sequences stay within about 1e-3 of 1; GSPO's paper clips at 3e-4."""


def notes(config: Any) -> list[str]:
    """Every note found by the functions below."""
    return [*clip_notes(config), *alpha_notes(config), *normaliser_notes(config)]


def clip_notes(config: Any) -> list[str]:
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


def alpha_notes(config: Any) -> list[str]:
    """ESPO's alpha left to its default, which decides how much is clipped and was another one before."""
    from verl_ext.plugin import POLICY_LOSSES

    node = config.actor_rollout_ref.actor.policy_loss
    defaults = POLICY_LOSSES["espo"].config_type().defaults()
    adaptive = (node.get("clip", None) or defaults["clip"]) == "adaptive"
    if node.get("loss_mode", "vanilla") != "espo" or not adaptive or node.get("alpha", None) is not None:
        return []
    return [
        f"{ACTOR}.policy_loss.alpha is not given: espo clips with its default of {defaults['alpha']:g}, its authors' "
        f"best (arXiv 2512.00499v2, table 3); until November 2026 the default was 0.1"
    ]


def normaliser_notes(config: Any) -> list[str]:
    """verl's GMPO, which reads no normaliser of the mini-batch."""
    if config.actor_rollout_ref.actor.policy_loss.get("loss_mode", "vanilla") != "geo_mean":
        return []
    return [
        f"{ACTOR}.policy_loss.loss_mode=geo_mean: verl takes the mean over the rows of each micro-batch, so that the "
        f"gradient depends on how a mini-batch is cut (docs/conformance.md)"
    ]

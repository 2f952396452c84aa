"""Which policy's forward pass the old entropies come from, decided from the configuration alone.

``algorithm.verl_ext.entropy_source``:

* ``actor``: verl's old-log-prob pass of the actor, before the update. Not there in bypass mode.
* ``rollout``: the rollout engine, in the pass that sampled the token.
* ``auto`` (default): ``rollout`` in bypass mode, otherwise ``actor``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_ext.rollout.settings import NODE, VerlExtConfig

ROLLOUT = "actor_rollout_ref.rollout"
# Key under rollout.custom, verl's place for extensions, by which a server learns that entropies are wanted.
CUSTOM = "verl_ext_entropies"


@dataclass(frozen=True)
class EntropySource:
    """What was decided.

    Attributes:
        provider: ``actor`` or ``rollout``, whose entropies the methods read.
        tap: whether the rollout engine is to compute entropies, for the methods or to be watched.
        obstacles: why it could not, one sentence each; empty where `tap` is True.
    """

    provider: str
    tap: bool
    obstacles: tuple[str, ...]


def bypassed(config: Any) -> bool:
    """Whether old log-probs are the rollout's, so that the actor makes no pass before the update."""
    return bool((config.algorithm.get("rollout_correction", None) or {}).get("bypass_mode", False))


def settings(config: Any) -> dict[str, Any]:
    """The keys of ``algorithm.verl_ext`` in force.

    Raises:
        ValueError: listing every fault in them.
    """
    given = config.algorithm.get("verl_ext", None) or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{NODE} must hold keys ({', '.join(VerlExtConfig.names())}), but it is {given!r}")
    return VerlExtConfig(**given).resolved()


def resolve(config: Any) -> EntropySource:
    """Decide for a composed trainer configuration.

    Raises:
        ValueError: ``algorithm.verl_ext`` itself is at fault.
    """
    own = settings(config)
    provider = own["entropy_source"]
    if provider == "auto":
        provider = "rollout" if bypassed(config) else "actor"
    found = tuple(obstacles(config))
    wanted = concerned(config) and (provider == "rollout" or own["watch_entropies"])
    return EntropySource(provider, wanted and not found, found)


def concerned(config: Any) -> bool:
    """Whether the run names anything of ours; others are left exactly as verl runs them."""
    from verl_ext import plugin

    loss = config.actor_rollout_ref.actor.policy_loss.get("loss_mode", "vanilla")
    estimator = str(config.algorithm.adv_estimator)
    return loss in plugin.POLICY_LOSSES or estimator in plugin.ESTIMATORS or "verl_ext" in config.algorithm


def obstacles(config: Any) -> list[str]:
    """Why the entropies of the rollout would be missing, or those of another distribution than the old policy's."""
    from verl_ext.rollout import tap

    rollout = config.actor_rollout_ref.rollout
    if rollout.name != "vllm":
        return [f"{ROLLOUT}.name={rollout.name}: only vllm returns entropies"]
    engine = (rollout.get("engine_kwargs", None) or {}).get("vllm", None) or {}
    found = []
    if not rollout.get("calculate_log_probs", False):
        found.append(f"{ROLLOUT}.calculate_log_probs=false: entropies come back with the log-probs; set it to true")
    mode = engine.get("logprobs_mode", None) or rollout.get("logprobs_mode", None)
    if mode != tap.MODE:
        found.append(
            f"{ROLLOUT}.logprobs_mode={mode}: log-probs and entropies would not be of the distribution that tokens are "
            f"drawn from; set it to {tap.MODE}"
        )
    top_p, top_k = rollout.get("top_p", 1.0), rollout.get("top_k", -1)
    if not math.isclose(top_p, 1.0):
        found.append(f"{ROLLOUT}.top_p={top_p}: the entropy would be that of a truncated distribution; set it to 1")
    if top_k not in (-1, 0):
        found.append(f"{ROLLOUT}.top_k={top_k}: the entropy would be that of a truncated distribution; set it to -1")
    fault = _version_fault()
    return [*found, fault] if fault else found


def _version_fault() -> str | None:
    from importlib.metadata import PackageNotFoundError

    from verl_ext.rollout import tap

    try:
        return tap.version_fault()
    except PackageNotFoundError:
        # The machine that submits a job need not have vLLM; the servers check again.
        return None


def unmet(config: Any) -> list[str]:
    """Why the old entropies that bypass mode leaves to the rollout cannot come from there.

    Empty where the configuration names the source itself: what stands against that is a fault of its own, `faults`.
    """
    try:
        own = settings(config)
    except ValueError:
        return []
    return obstacles(config) if own["entropy_source"] == "auto" and bypassed(config) else []


def faults(config: Any) -> list[str]:
    """Faults of what the configuration says about entropies, apart from what a method needs."""
    from verl_ext.rollout.mismatch import LIMITS

    try:
        own = settings(config)
    except ValueError as error:
        from verl_ext.hyper import one_each

        return one_each(error)
    found = []
    if own["entropy_source"] == "rollout":
        found += [f"{NODE}.entropy_source=rollout, but {obstacle}" for obstacle in obstacles(config)]
    if own["entropy_source"] == "actor" and bypassed(config):
        found.append(
            f"{NODE}.entropy_source=actor, but algorithm.rollout_correction.bypass_mode=true leaves out the actor's "
            "pass; set entropy_source to auto or rollout"
        )
    unread = [name for name in LIMITS if own[name] is not None]
    if unread and bypassed(config):
        found.append(
            f"{NODE}: {', '.join(unread)} cannot be watched with algorithm.rollout_correction.bypass_mode=true, where "
            "the actor computes nothing that the rollout could be compared with"
        )
    return found


def absent(config: Any) -> list[tuple[str, str]]:
    """Token data that no part of this configuration provides, each with the setting at fault."""
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    found = [("old_entropy", f"{obstacle} (in bypass mode they come from the rollout)") for obstacle in unmet(config)]
    if not (actor.get("calculate_entropy", False) or actor.get("entropy_coeff", 0)):
        found.append(
            (
                "entropy",
                "actor_rollout_ref.actor.calculate_entropy=false: set it to true to have the entropies of the current "
                "policy",
            )
        )
    if not (actor.get("use_kl_loss", False) or algorithm.get("use_kl_in_reward", False)):
        found.append(
            (
                "ref_log_prob",
                "actor_rollout_ref.actor.use_kl_loss=false: set it to true (kl_loss_coef may be 0) to have the "
                "reference policy's log-probabilities",
            )
        )
    return found

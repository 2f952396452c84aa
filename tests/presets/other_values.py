"""For each preset the keys that make it what it is, written out by hand, each with a value that makes it another."""

from __future__ import annotations

from pathlib import Path

from tools.pages.presets import is_made
from verl_ext import plugin

ACTOR = "actor_rollout_ref.actor"
LOSS = f"{ACTOR}.policy_loss.loss_mode"
CLASS = f"{ACTOR}.policy_loss._target_"
ESTIMATOR = "algorithm.adv_estimator"
AGGREGATION = f"{ACTOR}.loss_agg_mode"

ANY = {LOSS: "geo_mean", ESTIMATOR: "rloo"}
OURS = {**ANY, CLASS: "verl.workers.config.PolicyLossConfig"}
# Losses of ours that have no meaning under some aggregations, and those that read the current entropies.
SEQUENCES = {**OURS, AGGREGATION: "seq-mean-token-sum-norm"}
ENTROPIES = {**OURS, f"{ACTOR}.calculate_entropy": False}

OTHER_VALUES: dict[str, dict[str, object]] = {
    "cispo": ANY,
    "clip_cov": ANY,
    "clip_higher": {**ANY, f"{ACTOR}.clip_ratio_high": 0.2},
    "dcpo": OURS,
    "dr_grpo": {**ANY, "algorithm.norm_adv_by_std_in_grpo": True, AGGREGATION: "token-mean"},
    "entropy_bonus": ANY,
    "erpo": {**ANY, f"{ACTOR}.use_kl_loss": False},
    "espo": SEQUENCES,
    "espo_loss": SEQUENCES,
    "gmpo": {LOSS: "gpg", ESTIMATOR: "rloo", AGGREGATION: "token-mean"},
    "gpg": ANY,
    "grpo": ANY,
    "grpo_s": SEQUENCES,
    "gspo": ANY,
    "gtpo": ANY,
    "high_entropy": ENTROPIES,
    "kl_cov": ANY,
    "lpo": {**SEQUENCES, f"{ACTOR}.policy_loss.entropy_clip": True},
    "max_entropy": {**ANY, f"{ACTOR}.entropy_coeff": 0.0},
    "min_entropy": {**ANY, f"{ACTOR}.entropy_coeff": 1.0e-3},
    "sspo": SEQUENCES,
    "steer": ENTROPIES,
    "tepo": ENTROPIES,
}


def of_loss(name: str) -> dict[str, object]:
    """The same for a loss's preset that is made, of the table's entry."""
    loss = plugin.POLICY_LOSSES[name]
    norm = "seq-mean-token-sum-norm"
    values: dict[str, object] = {} if norm in loss.aggregations else {AGGREGATION: norm}
    return {**OURS, **values, **({f"{ACTOR}.calculate_entropy": False} if "entropy" in loss.reads else {})}


ALGO = Path(__file__).parents[2] / "configs/algo"
OTHER_VALUES |= {name: of_loss(name) for name in plugin.POLICY_LOSSES if is_made(ALGO / f"{name}.yaml")}

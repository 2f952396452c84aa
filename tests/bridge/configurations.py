"""verl's own trainer configuration, composed as its entry point does, with our groups on Hydra's path."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import verl
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

# verl's defaults lack a micro-batch size; with dynamic batching none is needed. One response a prompt is no group.
RUNNABLE = (
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.use_dynamic_bsz=true",
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=true",
)
VERL_CONFIGS = Path(verl.__file__).parent / "trainer" / "config"


def compose(*overrides: str, name: str = "ppo_trainer") -> DictConfig:
    """Example: `compose("+backend=cpu", "+algo=espo").algorithm.adv_estimator` is `espo`."""
    return copy.deepcopy(_composed(overrides, name))


@cache
def _composed(overrides: tuple[str, ...], name: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(VERL_CONFIGS), version_base=None):
        return hydra_compose(name, overrides=[*RUNNABLE, *overrides])

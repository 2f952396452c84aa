"""verl's own trainer configuration, composed as its entry point does, with our groups on Hydra's path."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import verl
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

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


@contextmanager
def entry_point(*overrides: str, name: str = "ppo_trainer") -> Iterator[DictConfig]:
    """What verl's entry point is given, while Hydra's choices are known in the process as `hydra.main` makes them."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(VERL_CONFIGS), version_base=None):
        whole = hydra_compose(name, [*RUNNABLE, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        try:
            yield OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        finally:
            HydraConfig.instance().cfg = None


def refused(folder: Path, *overrides: str) -> str:
    """What verl's own entry point says, from a foreign directory, in a run that ends before Ray starts."""
    # Here, as the probes import this file alone, by its name.
    from tests.platform import programs

    # Ray makes `ray/session_*` under this folder as the first thing it does.
    arguments = ["-m", "verl.trainer.main_ppo", *RUNNABLE, *overrides, f"hydra.run.dir={folder}/hydra"]
    finished = programs.run(*arguments, cwd=folder, RAY_TMPDIR=str(folder))
    assert finished.returncode != 0
    assert "Started a local Ray instance" not in finished.output
    assert "ray init kwargs" not in finished.output
    assert not list(folder.glob("**/session_*"))
    return finished.output

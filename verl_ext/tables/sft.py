"""Rows of kind sft: verl's supervised trainer, whose configuration has nothing to do with the PPO trainer's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from verl_ext.tables.schema import literal

if TYPE_CHECKING:
    from verl_ext.tables.job import Job

PRIMARY = "sft_trainer_engine"
SEED_KEYS = ("trainer.seed", "engine.seed", "+data.seed")
"""verl 0.9.1 reads the first nowhere, and its sampler always shuffles with seed 0: see docs/tables.md."""


def sft_arguments(job: Job, model: str | None = None) -> list[str]:
    """Hydra overrides for verl's ``sft_trainer_engine``: the model, the row's overrides, the seed."""
    from verl_ext.tables.job import model_path

    return [
        f"model.path={literal(model or model_path(job.row.choices['model']))}",
        *(f"{key}={literal(value)}" for key, value in job.row.overrides.items()),
        *(f"{key}={job.seed}" for key in SEED_KEYS),
        *job.overrides,
    ]


def compose_sft(job: Job) -> dict[str, Any]:
    """The configuration as plain data, interpolations left as they are.

    Raises:
        verl_ext.composing.errors.ConfigError: if it cannot be composed.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from verl_ext.composing.compose import verl_config_dir
    from verl_ext.composing.errors import ConfigError

    try:
        with initialize_config_dir(str(verl_config_dir()), version_base=None):
            config = compose(PRIMARY, overrides=sft_arguments(job))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{job.row.reference} cannot be composed:\n  - {error}") from error
    found: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return found


def sft_command(job: Job, model: str) -> list[str]:
    """torchrun on this machine with verl's supervised trainer."""
    config, work = job.config(), job.work
    every = job.row.checkpoint.every or (
        config["trainer"]["save_freq"] if config["trainer"]["save_freq"] != -1 else "after_each_epoch"
    )
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"),
        f"--nproc-per-node={config['trainer']['n_gpus_per_node']}",
        *("-m", "verl.trainer.sft_trainer"),
        *sft_arguments(job, model),
        f"trainer.save_freq={every}",
        "trainer.resume_mode=auto",
        f"trainer.default_local_dir={work.checkpoints}",
        f"hydra.run.dir={work.folder}/hydra",
    ]

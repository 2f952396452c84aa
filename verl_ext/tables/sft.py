"""Rows of kind sft: verl's supervised trainer, whose configuration has nothing to do with the PPO trainer's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_ext.recipe_files.schema import Row, literal

PRIMARY = "sft_trainer_engine"
SEED_KEYS = ("trainer.seed", "engine.seed", "+data.seed")
"""verl 0.9.1 reads the first nowhere, and its sampler always shuffles with seed 0: see docs/tables.md."""


def sft_arguments(row: Row, model: str, seed: int, overrides: Sequence[str]) -> list[str]:
    """Hydra overrides for verl's ``sft_trainer_engine``: the model, the row's overrides, the seed."""
    return [
        f"model.path={literal(model)}",
        *(f"{key}={literal(value)}" for key, value in row.overrides.items()),
        *(f"{key}={seed}" for key in SEED_KEYS),
        *overrides,
    ]


def compose_sft(row: Row, arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration of `sft_arguments` as plain data, interpolations left as they are.

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
            config = compose(PRIMARY, overrides=list(arguments))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{row.reference} cannot be composed:\n  - {error}") from error
    found: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return found

"""One run of a row: the row, a seed, where it works, and its composed configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.recipe_files.schema import Row, Table
from verl_ext.tables.sft import compose_sft, sft_arguments
from verl_ext.tables.work import Work, key_of

if TYPE_CHECKING:
    from verl_ext.train import Composed

SEED_KEYS = (
    "data.seed",  # which `train_max_samples` problems are drawn, and the order of all
    "actor_rollout_ref.rollout.seed",
    "actor_rollout_ref.actor.data_loader_seed",
    "critic.data_loader_seed",
    "reward.reward_model.rollout.seed",
)
FSDP_SEED_KEYS = (
    "actor_rollout_ref.actor.fsdp_config.seed",
    "actor_rollout_ref.ref.fsdp_config.seed",
    "critic.fsdp.seed",
)
MEGATRON_SEED_KEYS = ("actor_rollout_ref.actor.megatron.seed", "critic.megatron.seed")
"""The reference model's follows the actor's."""
SAVE_EVERY = 20
"""Steps between checkpoints where the configuration gives no number: what an interruption costs at most."""


@dataclass(frozen=True)
class Places:
    """Where things lie.

    Attributes:
        out: work folders and reports.
        data: prepared data; by default what VERL_EXT_DATA names.
        assets: cache of the demo's models.
    """

    out: Path = Path("outputs/tables")
    data: Path = field(default_factory=lambda: Path(os.environ.get("VERL_EXT_DATA", "outputs/data")))
    assets: Path = Path("outputs/assets")


@dataclass(frozen=True)
class Job:
    """A row with one seed.

    Attributes:
        table: the row's table.
        row: of kind train, sft or evaluate.
        seed: one of the row's, or another.
        places: where things lie.
        overrides: further Hydra overrides, after the row's own; they are part of the configuration and of its hash.
        tensor_parallel: GPUs that a copy of the model is spread over in the evaluation; no number depends on it.
    """

    table: Table
    row: Row
    seed: int
    places: Places = field(default_factory=Places)
    overrides: tuple[str, ...] = ()
    tensor_parallel: int = 1

    @property
    def name(self) -> str:
        return f"{self.row.reference} seed {self.seed}"

    @property
    def work(self) -> Work:
        return Work((self.places.out / self.row.reference / f"seed{self.seed}").absolute())

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that a row of this kind has."""
        return (
            ("data", "evaluate", "result")
            if self.row.kind == "evaluate"
            else ("data", "train", "export", "evaluate", "result")
        )

    @cached_property
    def composed(self) -> Composed:
        """The configuration of a row of kind train, without anything that depends on this machine.

        Raises:
            verl_ext.composing.errors.ConfigError: if it cannot be composed.
        """
        from verl_ext.train import compose

        return compose(self.arguments())

    def arguments(self, runtime: Sequence[str] = ()) -> list[str]:
        """Hydra overrides: the row's, the seed's, those given on the command line, and `runtime`."""
        keys = (*SEED_KEYS, *(MEGATRON_SEED_KEYS if self.megatron else FSDP_SEED_KEYS))
        seeds = [f"{key}={self.seed}" for key in keys]
        return [*self.row.hydra_overrides(), *seeds, *self.overrides, *runtime]

    @property
    def megatron(self) -> bool:
        """Whether the row trains with Megatron, or an override says so."""
        given = [override.partition("=")[2] for override in self.overrides if override.startswith("backend=")]
        return [self.row.choices.get("backend"), *given][-1] == "megatron"

    def sft_arguments(self, model: str | None = None) -> list[str]:
        """Of a row of kind sft, from another model than the row's if one is given."""
        return sft_arguments(self.row, model or model_path(self.row.choices["model"]), self.seed, self.overrides)

    def config(self) -> dict[str, Any]:
        """The configuration as plain data, interpolations left as they are: no path of this machine is in it.

        Neither is the name that the run was given: another name does not make other numbers.
        """
        if self.row.kind == "sft":
            return compose_sft(self.row, self.sft_arguments())
        if self.row.kind == "evaluate":
            return {}
        from omegaconf import OmegaConf

        from verl_ext.run.name import VERLS

        found: dict[str, Any] = OmegaConf.to_container(self.composed.config, resolve=False)  # type: ignore[assignment]
        found["trainer"].update({key: VERLS[key] for key in self.composed.names})
        return found

    @cached_property
    def config_hash(self) -> str:
        """Names the configuration in results; of a row that is only evaluated, its model."""
        return key_of(self.config() or {"model": self.row.choices.get("model"), "endpoint": str(self.row.endpoint)})

    def runtime(self) -> list[str]:
        """Overrides of a training run that say where it works and what it keeps."""
        work, trainer = self.work, self.composed.config.trainer
        every = self.row.checkpoint.every or (trainer.save_freq if trainer.save_freq > 0 else SAVE_EVERY)
        # A resumable run needs the last checkpoint; one more, as the last may be incomplete when a run is killed.
        keep = "null" if self.row.checkpoint.rule == "best" else "2"
        return [
            f"trainer.save_freq={every}",
            "trainer.resume_mode=auto",
            f"trainer.max_actor_ckpt_to_keep={keep}",
            f"trainer.max_critic_ckpt_to_keep={keep}",
            f"trainer.default_local_dir={work.checkpoints}",
            f"hydra.run.dir={work.folder}/hydra",
        ]


def model_path(choice: str) -> str:
    """What a file of configs/model sets as the model's path, resolved."""
    from omegaconf import OmegaConf

    from verl_ext.config_groups import config_dir

    config = OmegaConf.load(config_dir() / "model" / f"{choice}.yaml")
    return str(config.actor_rollout_ref.model.path)

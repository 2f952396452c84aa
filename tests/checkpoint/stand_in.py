"""verl's own trainer class with training processes that write small real shards, in this process."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.utils import create_rl_sampler
from verl.trainer.ppo.v1 import PPOTrainerSync

from verl_ext.run.checkpoint import processes

ROWS, BATCH = 20, 8  # two steps an epoch, four rows left over


class Ranks:
    """A worker group whose ranks take their turns, each on a node (a folder name prefix) of its own or on one."""

    def __init__(self, size: int) -> None:
        self.world_size = size
        self.value = 0.0
        self.asked: list[str] = []
        self.loaded: list[str] = []
        self.fail: Exception | None = None

    def verl_ext_checkpoint(self, what: str, *arguments: Any) -> list[Any]:
        self.asked.append(what)
        return [processes.answer(what, rank, None, *arguments) for rank in range(self.world_size)]

    def save_checkpoint(self, local_path: str, *_: Any, **__: Any) -> None:
        folder = Path(local_path)
        (folder / "huggingface").mkdir(parents=True)
        (folder / "huggingface" / "config.json").write_text("{}")
        for rank in range(self.world_size):
            for kind in ("model", "optim", "extra_state"):
                file = folder / f"{kind}_world_size_{self.world_size}_rank_{rank}.pt"
                torch.save({"value": torch.full((64,), self.value + rank)}, file)
                if self.fail and kind == "optim":
                    raise self.fail

    def load_checkpoint(self, local_path: str, **_: Any) -> None:
        self.loaded.append(local_path)
        file = Path(local_path) / f"model_world_size_{self.world_size}_rank_0.pt"
        self.value = float(torch.load(file)["value"][0])


def trainer(root: Path, world_size: int = 2, steps: int = 6, epochs: int = 9, **settings: Any) -> Any:
    """A `PPOTrainerSync` as it is when `_setup` comes to loading a checkpoint.

    Args:
        root: `trainer.default_local_dir`.
        world_size: training processes.
        steps: `trainer.total_training_steps`.
        epochs: `trainer.total_epochs`.
        settings: keys of `trainer`, or of `verl_ext.checkpoint` as `verl_ext={...}`.
    """
    own = settings.pop("verl_ext", {})
    made = PPOTrainerSync.__new__(PPOTrainerSync)
    base = {
        "default_local_dir": str(root),
        "default_hdfs_dir": None,
        "resume_mode": "auto",
        "resume_from_path": None,
        "del_local_ckpt_after_load": False,
        "total_epochs": epochs,
    }
    made.config = OmegaConf.create(
        {
            "trainer": {**base, **settings},
            "actor_rollout_ref": {
                "actor": {
                    "checkpoint": {"async_save": False},
                    "policy_loss": {"loss_mode": "vanilla"},
                    "clip_ratio": 0.2,
                    "clip_ratio_low": 0.2,
                    "clip_ratio_high": 0.2,
                    "loss_agg_mode": "token-mean",
                    "optim": {"optimizer": "AdamW", "lr": 1e-3},
                },
                "model": {"path": "absent/model"},
            },
            "algorithm": {"adv_estimator": "grpo"},
            "data": {"train_files": "absent.parquet", "seed": 1},
            "verl_ext": {"checkpoint": own},
        }
    )
    OmegaConf.set_struct(made.config, True)
    made.trainer_mode, made.use_critic = "sync", False
    made.actor_rollout_wg = Ranks(world_size)
    made.total_training_steps, made.steps_per_epoch = steps, ROWS // BATCH
    made.checkpoint_callback = CheckpointCallback()
    made.kl_ctrl_in_reward = core_algos.get_kl_controller(
        SimpleNamespace(type="adaptive", kl_coef=0.1, target_kl=0.1, horizon=100)
    )
    data = list(range(ROWS))
    made.train_dataloader = StatefulDataLoader(
        dataset=data,
        batch_size=BATCH,
        num_workers=0,
        drop_last=True,
        collate_fn=lambda rows: {"raw_prompt": rows},
        sampler=create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 1}), data),
    )
    made.train_dataloader_it = None
    made.global_steps = 0
    return made


def step(made: Any) -> dict[str, Any]:
    """One training step: everything that it draws, and what moves with it."""
    made.global_steps += 1
    made.actor_rollout_wg.value += 1
    made.kl_ctrl_in_reward.update(current_kl=0.12, n_steps=2)
    rows = _next(made)
    return {
        "rows": rows,
        "python": random.random(),
        "numpy": float(__import__("numpy").random.rand()),
        "torch": float(torch.rand(())),
        "kl": made.kl_ctrl_in_reward.value,
        "value": made.actor_rollout_wg.value,
    }


def _next(made: Any) -> list[int]:
    if made.train_dataloader_it is None:
        made.train_dataloader_it = iter(made.train_dataloader)
    try:
        return next(made.train_dataloader_it)["raw_prompt"]
    except StopIteration:
        made.train_dataloader_it = iter(made.train_dataloader)
        return next(made.train_dataloader_it)["raw_prompt"]


def save_after(made: Any, steps: int) -> list[dict[str, Any]]:
    """Train, saving after each step."""
    done = []
    for _ in range(steps):
        done.append(step(made))
        made._save_checkpoint()
    return done

"""Jobs that need no configuration, and a configuration that a job can be made of."""

from __future__ import annotations

import pytest

from verl_ext.cluster.submission.environment import Environment
from verl_ext.cluster.submission.job import Job


@pytest.fixture
def job() -> Job:
    return Job(
        "espo 7b",
        ("python", "train.py", "a='x y'"),
        Environment({"NCCL_DEBUG": "INFO"}, {"WANDB_API_KEY": "0123456789"}),
        checkpoints="/shared/runs/a",
        steps=10,
        nodes=4,
        gpus=8,
        max_restarts=2,
    )


@pytest.fixture
def arguments() -> list[str]:
    """A sound configuration for four nodes."""
    return [
        "algo=espo",
        "backend=fsdp",
        "cluster=4x8",
        "model=qwen2_5_7b",
        "actor_rollout_ref.rollout.n=8",
        "data.train_files=/shared/train.parquet",
        "data.val_files=/shared/val.parquet",
        "trainer.default_local_dir=/shared/runs/a",
    ]

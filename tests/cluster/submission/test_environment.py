"""What a job's processes find in their environment, and what nobody gets to see."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from verl_ext.cluster.submission.environment import MERGE, MODULES, OURS, VERLS, collect, modules

ALWAYS = {MODULES: "verl_ext.bridge.entry", MERGE: "1", "HYDRA_FULL_ERROR": "1"}


def test_a_shell_gives_what_is_listed_and_nothing_else() -> None:
    shell = {"NCCL_DEBUG": "INFO", "VERL_EXT_DATA": "/data", "VERL_PLATFORM": "", "WANDB_API_KEY": "k", "HOME": "/root"}
    assert collect(shell).variables == {"NCCL_DEBUG": "INFO", "VERL_EXT_DATA": "/data", **ALWAYS}


def test_named_variables_win_and_are_not_shown() -> None:
    found = collect({"WANDB_API_KEY": "0123456789", "NCCL_DEBUG": "INFO"}, ["WANDB_API_KEY", "NCCL_DEBUG=WARN", "GONE"])
    assert found.variables == {"WANDB_API_KEY": "0123456789", "NCCL_DEBUG": "WARN", **ALWAYS}
    assert found.unset == ("GONE",)
    said = " ".join(found.lines()) + repr(found)
    assert "0123456789" not in said
    assert "WARN" not in said
    assert "WANDB_API_KEY=***" in said
    assert found.mask("key 0123456789, level WARN") == "key ***, level WARN"


def test_the_platform_is_a_default() -> None:
    found = collect({"VERL_PLATFORM": "cuda"}, (), {"VERL_PLATFORM": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1"})
    assert (found.open["VERL_PLATFORM"], found.open["VLLM_CPU_KVCACHE_SPACE"]) == ("cuda", "1")


@pytest.mark.parametrize("named", [[], [f"{MODULES}=mine"], [MODULES]])
def test_the_plugin_is_always_imported(named: list[str]) -> None:
    found = collect({MODULES: "mine"}, named)
    assert found.variables[MODULES] == "verl_ext.bridge.entry,mine"
    assert modules("a,verl_ext.bridge.entry,a") == "verl_ext.bridge.entry,a"


def test_faults_of_names() -> None:
    found = collect({}, ["2X=1", "RAY_ADDRESS=auto", "", "OK=1"])
    assert [fault.split(":")[0] for fault in found.faults] == ["--env 2X", "--env ", "--env RAY_ADDRESS"]


def test_what_verl_looks_up_in_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract with verl: every name of `VERLS` matters to its driver, and none of `OURS` does."""
    import verl.trainer.constants_ppo as constants

    monkeypatch.setattr(constants, "_is_hopper_or_ampere", True)
    config = OmegaConf.create({"actor_rollout_ref": {"actor": {"strategy": "megatron"}}})
    for name in (*VERLS, *OURS):
        monkeypatch.delenv(name, raising=False)
    before = constants.get_ppo_ray_runtime_env(config)["env_vars"]
    for name in (*VERLS, *OURS):
        monkeypatch.setenv(name, "7")
    after = constants.get_ppo_ray_runtime_env(config)["env_vars"]
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == set(VERLS)
    # Of the rest verl decides itself; they are the business of other hardware.
    assert {name.split("_")[0] for name in set(after) - set(VERLS)} <= {"HCCL", "HSA", "NCCL", "RAY"}


def test_a_variable_of_job_and_trainer_needs_the_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract with Ray: without the variable that we set, a seed for hashes alone stops the trainer."""
    from ray.runtime_env.runtime_env import _merge_runtime_env
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    monkeypatch.setenv("PYTHONHASHSEED", "0")
    job = {"env_vars": collect({"PYTHONHASHSEED": "0"}).variables}
    trainers = get_ppo_ray_runtime_env()
    assert _merge_runtime_env(job, trainers, override=False) is None
    merged = _merge_runtime_env(job, trainers, override=job["env_vars"][MERGE] == "1")
    assert merged is not None
    assert merged["env_vars"]["PYTHONHASHSEED"] == "0"
    assert merged["env_vars"][MODULES] == "verl_ext.bridge.entry"

"""Settings of verl that are silently wrong or inert are refused for every run, and what is right is not."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.bridge.configurations import compose
from verl_ext.checks import silent

ACTOR, REF, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.ref", "actor_rollout_ref.rollout"
ULYSSES = "ulysses_sequence_parallel_size"
ATTENTION = "+actor_rollout_ref.model.override_config.attn_implementation"
SDPA = {"actor_rollout_ref.model.override_config.attn_implementation": "sdpa"}


@pytest.fixture(scope="module")
def stock() -> DictConfig:
    """verl's own configuration, without anything of ours."""
    return compose()


@pytest.fixture(scope="module")
def megatron() -> DictConfig:
    return compose("+backend=megatron", "+algo=tepo", name="ppo_megatron_trainer")


def faults(base: DictConfig, **changes: Any) -> list[str]:
    config = copy.deepcopy(base)
    for key, value in changes.items():
        OmegaConf.update(config, key, value, force_add=True)
    return silent.faults(config)


def test_what_is_shipped_has_none(stock: DictConfig, megatron: DictConfig) -> None:
    assert silent.faults(stock) == []
    assert silent.faults(megatron) == []


@pytest.mark.parametrize("node", [ACTOR, f"{ACTOR}.fsdp_config", REF, f"{REF}.fsdp_config", "critic"])
def test_ulysses_without_flash_attention_is_refused_wherever_it_is_set(stock: DictConfig, node: str) -> None:
    sdpa = {"critic.model.override_config.attn_implementation": "sdpa"} if node == "critic" else SDPA
    (fault,) = faults(stock, **{f"{node}.{ULYSSES}": 2}, **sdpa)
    assert fault.startswith(f"{node}.{ULYSSES}=2 with ")
    assert "attn_implementation=sdpa" in fault
    assert faults(stock, **{f"{node}.{ULYSSES}": 1}, **sdpa) == []


@pytest.mark.parametrize("attention", ["eager", "flex_attention", "sdpa"])
def test_any_other_attention_is_refused(stock: DictConfig, attention: str) -> None:
    key = ATTENTION.removeprefix("+")
    assert len(faults(stock, **{f"{ACTOR}.{ULYSSES}": 4, key: attention})) == 1


@pytest.mark.parametrize("attention", [None, "flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2"])
def test_ulysses_with_flash_attention_is_not(stock: DictConfig, attention: str | None) -> None:
    given = {} if attention is None else {ATTENTION.removeprefix("+"): attention}
    assert faults(stock, **{f"{ACTOR}.{ULYSSES}": 4}, **given) == []


def test_contract_verl_attends_by_flash_attention_unless_told_otherwise() -> None:
    from verl.models.transformers import monkey_patch
    from verl.workers.config.model import HFModelConfig

    assert 'get("attn_implementation", "flash_attention_2")' in inspect.getsource(HFModelConfig)
    assert "_flash_attention_forward = _ulysses_flash_attention_forward" in inspect.getsource(monkey_patch)


def chunked(base: DictConfig, **changes: Any) -> list[str]:
    return faults(base, **{f"{ACTOR}.entropy_from_logits_with_chunking": True, **changes})


def test_current_entropies_in_chunks_are_refused_on_megatron(megatron: DictConfig) -> None:
    (fault,) = chunked(megatron)
    assert "more than 2048 tokens, and these have up to 16384; set it to false" in fault


def test_the_bonus_is_a_current_entropy_too(megatron: DictConfig) -> None:
    plain = {f"{ACTOR}.calculate_entropy": False}
    assert chunked(megatron, **plain) == []
    assert len(chunked(megatron, **plain, **{f"{ACTOR}.entropy_coeff": 0.001})) == 1


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({f"{ACTOR}.ppo_max_token_len_per_gpu": 2048}, False),
        ({f"{ACTOR}.ppo_max_token_len_per_gpu": 2049}, True),
        ({f"{ACTOR}.entropy_from_logits_chunk_size": 16384}, False),
        # 2 rows of 512 + 512 tokens; 3 rows
        ({f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 2}, False),
        ({f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 3}, True),
        # Padded rows are cut into chunks one by one.
        ({f"{ACTOR}.megatron.use_remove_padding": False}, False),
    ],
)
def test_one_chunk_is_sound(megatron: DictConfig, changes: dict[str, Any], refused: bool) -> None:
    assert bool(chunked(megatron, **changes)) == refused


def test_fsdp_has_another_function(stock: DictConfig) -> None:
    assert chunked(stock, **{f"{ACTOR}.calculate_entropy": True}) == []


MULTI_TURN = {f"{ROLLOUT}.multi_turn.enable": True}


def data(folder: Path, **columns: Any) -> dict[str, str]:
    file = folder / "train.jsonl"
    file.write_text(json.dumps({"prompt": [], **columns}) + "\n")
    return {"data.train_files": str(file)}


def test_multi_turn_enable_alone_is_refused(stock: DictConfig, tmp_path: Path) -> None:
    (fault,) = faults(stock, **MULTI_TURN, **data(tmp_path))
    assert "no tool would run" in fault
    assert f"{ROLLOUT}.agent.default_agent_loop=tool_agent" in fault


def test_multi_turn_with_its_switch_is_not(stock: DictConfig, tmp_path: Path) -> None:
    switch = {f"{ROLLOUT}.agent.default_agent_loop": "tool_agent"}
    assert faults(stock, **MULTI_TURN, **data(tmp_path), **switch) == []
    assert faults(stock, **MULTI_TURN, **data(tmp_path, agent_name="tool_agent")) == []
    assert faults(stock, **MULTI_TURN, **data(tmp_path), **{"trainer.use_v1": False}) == []
    elsewhere = {"data.train_files": "hdfs://there/train.parquet"}
    assert faults(stock, **MULTI_TURN, **elsewhere) == []  # nothing is known of its columns


def test_contract_v1_asks_for_the_agent_and_not_for_multi_turn() -> None:
    from verl.trainer.ppo.v1 import agent_loop_tq, trainer_base

    assert "default_agent_loop = config.agent.default_agent_loop" in inspect.getsource(agent_loop_tq)
    assert "multi_turn.enable" not in inspect.getsource(agent_loop_tq) + inspect.getsource(trainer_base)


@pytest.mark.parametrize(
    ("key", "value", "moved"),
    [
        ("custom_reward_function.path", "mine.py", "reward.custom_reward_function.path=mine.py"),
        ("reward_model.enable", True, "reward.reward_model.enable=True"),
        ("reward_model.reward_manager", "dapo", "reward.reward_manager.name=dapo"),
        ("sandbox_fusion.url", "http://there", "reward.sandbox_fusion.url=http://there"),
    ],
)
def test_rewards_where_older_versions_read_them_are_refused(
    stock: DictConfig, key: str, value: Any, moved: str
) -> None:
    assert faults(stock, **{key: value}) == [f"{key}={value}: not read by this verl's trainers; write {moved}"]


def test_contract_the_trainers_do_not_move_them() -> None:
    from verl.trainer import main_ppo
    from verl.trainer.ppo.v1 import trainer_base

    assert "migrate_legacy_reward_impl" not in inspect.getsource(main_ppo) + inspect.getsource(trainer_base)

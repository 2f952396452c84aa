"""Settings of verl that are silently wrong or do nothing, whatever the method; refused for every run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from verl_ext.sizing.layout import flash_attention

ACTOR = "actor_rollout_ref.actor"
REF = "actor_rollout_ref.ref"
MODEL = "actor_rollout_ref.model"
ROLLOUT = "actor_rollout_ref.rollout"
ULYSSES = "ulysses_sequence_parallel_size"
SINGLE_TURN = "single_turn_agent"

LEGACY = {
    "custom_reward_function": "reward.custom_reward_function",
    "reward_model": "reward.reward_model",
    "sandbox_fusion": "reward.sandbox_fusion",
}
"""Top-level nodes that verl's YAML still has -> where its trainers read the same."""


def faults(config: Any) -> list[str]:
    """Every such setting of a composed trainer configuration, as sentences; empty when there is none."""
    checks = (ulysses_faults, chunking_faults, multi_turn_faults, legacy_faults)
    return [fault for found in checks for fault in found(config)]


def ulysses_faults(config: Any) -> list[str]:
    """Sequences divided among GPUs for an attention that does not put them together again."""
    found = []
    for owner, model in ((ACTOR, MODEL), (REF, MODEL), ("critic", "critic.model")):
        keys = [key for key in _ulysses_keys(config, owner) if OmegaConf.select(config, key) > 1]
        if keys and not flash_attention(OmegaConf.select(config, model)):
            attention = f"{model}.override_config.attn_implementation"
            found.append(
                f"{keys[0]}={OmegaConf.select(config, keys[0])} with {attention}="
                f"{OmegaConf.select(config, attention)}: verl exchanges the parts of a sequence within flash attention "
                f"alone; with any other, tokens see their own part only and log-probs are wrong by nats. Set "
                f"{attention}=flash_attention_2, or {ULYSSES}=1"
            )
    return found


def _ulysses_keys(config: Any, owner: str) -> Iterator[str]:
    """The settings of an FSDP engine that are given; one that follows another setting is told there."""
    part = OmegaConf.select(config, owner)
    if not str((part or {}).get("strategy", "")).startswith("fsdp"):
        return
    for node in (owner, f"{owner}.fsdp_config", f"{owner}.fsdp"):
        given = OmegaConf.select(config, node)
        if given is not None and ULYSSES in given and not OmegaConf.is_interpolation(given, ULYSSES):
            yield f"{node}.{ULYSSES}"


def chunking_faults(config: Any) -> list[str]:
    """Current entropies in chunks on Megatron: verl's function writes to what its backward pass reads."""
    actor, data = config.actor_rollout_ref.actor, config.data
    engine = actor.get("megatron", None) if actor.strategy == "megatron" else None
    if not engine or not engine.get("entropy_from_logits_with_chunking", False):
        return []
    if not (actor.get("calculate_entropy", False) or actor.get("entropy_coeff", 0)):
        return []
    chunk, longest = engine.entropy_from_logits_chunk_size, data.max_prompt_length + data.max_response_length
    rows = actor.get("ppo_micro_batch_size_per_gpu", None) or 1
    packed = actor.ppo_max_token_len_per_gpu if actor.use_dynamic_bsz else rows * longest
    tokens = packed if engine.get("use_remove_padding", True) else longest
    if tokens <= chunk:
        return []
    return [
        f"{ACTOR}.entropy_from_logits_with_chunking=true: on Megatron the backward pass of current entropies fails in "
        f"micro-batches of more than {chunk} tokens, and these have up to {tokens}; set it to false"
    ]


def multi_turn_faults(config: Any) -> list[str]:
    """Tools switched on where verl's V1 trainers do not look."""
    rollout = config.actor_rollout_ref.rollout
    on = (rollout.get("multi_turn", None) or {}).get("enable", False) and config.trainer.get("use_v1", True)
    agent = (rollout.get("agent", None) or {}).get("default_agent_loop", SINGLE_TURN)
    if not on or agent != SINGLE_TURN or _names_agents(config):
        return []
    return [
        f"{ROLLOUT}.multi_turn.enable=true: not read by verl's V1 trainers, no tool would run; set "
        f"{ROLLOUT}.agent.default_agent_loop=tool_agent, or give the data a column agent_name"
    ]


def _names_agents(config: Any) -> bool:
    """Whether the training data name an agent loop for each row, or may do so: they are not here."""
    from verl_ext.checks import files, probe

    named = [path for key, path in files.data(config).items() if key.startswith("data.train_files")]
    return any(not Path(path).is_file() or "agent_name" in probe.data(path)["columns"] for path in named)


def legacy_faults(config: Any) -> list[str]:
    """Rewards configured where older versions of verl read them."""
    found = []
    for node, place in LEGACY.items():
        for key, value in _leaves(OmegaConf.to_container(config.get(node, None) or OmegaConf.create({}))):
            moved = f"{place}.{key}".replace("reward_model.reward_manager", "reward_manager.name")
            found.append(f"{node}.{key}={value}: not read by this verl's trainers; write {moved}={value}")
    return found


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys that have a value."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value

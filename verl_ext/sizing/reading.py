"""From a composed configuration to the numbers that memory and time depend on."""

from __future__ import annotations

import re
from typing import Any

from verl_ext.sizing import layout as layouts
from verl_ext.sizing.layout import flash_attention
from verl_ext.sizing.settings import Settings

BYTES = {"fp32": 4, "float32": 4, "float": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, "half": 2}


def read(config: Any) -> Settings:
    """The settings of a composed and faultless configuration.

    Raises:
        ValueError: a data type is not known.

    Example:
        >>> from verl_ext.train import compose
        >>> read(compose(["algo=espo", "backend=fsdp", "cluster=1x8", "model=qwen2_5_7b"]).config).shards
        8
    """
    return Settings(**_machines(config), **_engine(config), **_passes(config), **_rollout(config))


def _bytes(name: Any) -> int:
    key = str(name).removeprefix("torch.")
    if key not in BYTES:
        raise ValueError(f"the data type {name} is not known; choose one of {', '.join(BYTES)}")
    return BYTES[key]


def _machines(config: Any) -> dict[str, Any]:
    actor, data, rollout = config.actor_rollout_ref.actor, config.data, config.actor_rollout_ref.rollout
    return {
        "path": str(config.actor_rollout_ref.model.path),
        "cpu": config.trainer.device == "cpu",
        "nodes": config.trainer.nnodes,
        "gpus_per_node": config.trainer.n_gpus_per_node,
        "prompts": data.train_batch_size,
        "responses": rollout.n,
        "mini_prompts": actor.ppo_mini_batch_size,
        "epochs": actor.ppo_epochs,
        "prompt_tokens": data.max_prompt_length,
        "response_tokens": data.max_response_length,
    }


def _engine(config: Any) -> dict[str, Any]:
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    layout = layouts.layout(config)
    shared = {"megatron": layouts.megatron(config), "sequence": layout.sequence_parallel, "fsdp2": False}
    if shared["megatron"]:
        return {**shared, **_megatron(actor)}
    engine = actor.fsdp_config
    mixed = engine.get("mixed_precision", None) or {}
    size = engine.fsdp_size
    return {
        **shared,
        "fsdp2": str(actor.strategy) == "fsdp2",
        "shards": size if 0 < size < layout.gpus else layout.gpus,
        "reshard": bool(engine.reshard_after_forward),
        "tensor": 1,
        "pipeline": 1,
        "expert": 1,
        "expert_tensor": 1,
        "distributed_optimizer": True,
        "weight": _bytes(engine.model_dtype or "fp32"),
        "compute": _bytes(mixed.get("param_dtype", "bf16")),
        "reduce": _bytes(mixed.get("reduce_dtype", "fp32")),
        "master": (0, 0),
        "param_offload": bool(engine.param_offload),
        "optimizer_offload": bool(engine.optimizer_offload),
        "stay_offloaded": bool(engine.offload_policy) and str(actor.strategy) == "fsdp2",
        "optimizer_on_cpu": False,
        "checkpointing": bool(model.enable_gradient_checkpointing),
    }


def _megatron(actor: Any) -> dict[str, Any]:
    engine, optimizer = actor.megatron, actor.optim
    aware = bool(optimizer.get("use_precision_aware_optimizer", False))

    def of(key: str) -> int:
        return _bytes(optimizer[key]) if aware else 4

    further = optimizer.get("override_optimizer_config", None) or {}
    return {
        "shards": 1,
        "reshard": True,
        "tensor": engine.tensor_model_parallel_size,
        "pipeline": engine.pipeline_model_parallel_size,
        "expert": engine.expert_model_parallel_size,
        "expert_tensor": engine.expert_tensor_parallel_size or engine.tensor_model_parallel_size,
        "distributed_optimizer": bool(engine.use_distributed_optimizer),
        "weight": 2,
        "compute": 2,
        "reduce": of("main_grads_dtype"),
        # A float32 copy of the weight, and two moments.
        "master": (of("main_grads_dtype"), 4 + of("exp_avg_dtype") + of("exp_avg_sq_dtype")),
        "param_offload": bool(engine.param_offload),
        "optimizer_offload": bool(engine.optimizer_offload),
        "stay_offloaded": False,
        "optimizer_on_cpu": bool(further.get("optimizer_cpu_offload", False)),
        "checkpointing": engine.override_transformer_config.get("recompute_granularity", None) == "full",
    }


def _passes(config: Any) -> dict[str, Any]:
    actor, model, rollout = (config.actor_rollout_ref[key] for key in ("actor", "model", "rollout"))
    engine = actor.megatron if layouts.megatron(config) else actor.fsdp_config
    reference = bool(actor.use_kl_loss) or bool(config.algorithm.use_kl_in_reward)
    rank = (model.get("lora", None) or {}).get("rank", 0) or model.get("lora_rank", 0)
    correction = config.algorithm.get("rollout_correction", None) or {}
    own = config.actor_rollout_ref.ref.get("megatron", None) or {}
    return {
        "flash": flash_attention(model),
        "remove_padding": bool(model.use_remove_padding),
        "fused": bool(model.get("use_fused_kernels", False)),
        "entropy": bool(actor.get("calculate_entropy", False)) or bool(actor.get("entropy_coeff", 0)),
        "chunking": bool(engine.entropy_from_logits_with_chunking),
        "entropy_checkpointing": bool(engine.get("entropy_checkpointing", False)),
        "chunk": engine.get("entropy_from_logits_chunk_size", 2048),
        "temperature_one": rollout.temperature == 1,
        "dynamic": bool(actor.use_dynamic_bsz),
        "update_limit": _limit(
            actor, actor.use_dynamic_bsz, "ppo_max_token_len_per_gpu", "ppo_micro_batch_size_per_gpu"
        ),
        "log_prob_dynamic": bool(rollout.log_prob_use_dynamic_bsz),
        "log_prob_limit": _limit(
            rollout,
            rollout.log_prob_use_dynamic_bsz,
            "log_prob_max_token_len_per_gpu",
            "log_prob_micro_batch_size_per_gpu",
        ),
        "lora_rank": rank,
        "lora_targets": _names(model.get("target_modules", "all-linear")),
        "lora_excluded": _names(model.get("exclude_modules", None)),
        # With LoRA the reference is the actor without its adapters.
        "reference": reference and not rank,
        # FSDP's reference always lies on the host.
        "reference_offload": bool(own.get("param_offload", False)) if layouts.megatron(config) else True,
        "old_log_probs": not correction.get("bypass_mode", False),
    }


def _limit(node: Any, dynamic: bool, tokens: str, rows: str) -> int:
    return node[tokens] if dynamic else node.get(rows, None) or 1


def _names(value: Any) -> Any:
    """A pattern stays one; verl also reads ``[a,b]`` out of a text."""
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(re.split(r"\s*,\s*", value.strip("[]"))) if value.startswith("[") else value
    return tuple(str(one) for one in value)


def _rollout(config: Any) -> dict[str, Any]:
    rollout = config.actor_rollout_ref.rollout
    longest = config.data.max_prompt_length + config.data.max_response_length
    apart = not config.actor_rollout_ref.hybrid_engine
    own = rollout if apart else config.trainer
    return {
        "apart": apart,
        "rollout_gpus": own.nnodes * own.n_gpus_per_node,
        "rollout_tensor": rollout.tensor_model_parallel_size,
        "rollout_data": rollout.data_parallel_size,
        "rollout_expert": max(rollout.expert_parallel_size, rollout.tensor_model_parallel_size),
        "rollout_bytes": _bytes(rollout.dtype),
        "utilization": rollout.gpu_memory_utilization,
        "running": rollout.max_num_seqs,
        "model_length": rollout.max_model_len or longest,
        "batched_tokens": rollout.max_num_batched_tokens,
        "sleeps": bool(rollout.free_cache_engine),
        "bucket": int(rollout.checkpoint_engine.update_weights_bucket_megabytes * 2**20),
        "kv_space": _kv_space() if config.trainer.device == "cpu" else 0,
    }


def _kv_space() -> int:
    from verl_ext.platform.cpu import cpu_env

    return int(float(cpu_env()["VLLM_CPU_KVCACHE_SPACE"]) * 2**30)

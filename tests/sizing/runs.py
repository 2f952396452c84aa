"""A configuration's settings, built directly so that tests need not compose one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from verl_ext.sizing.settings import Settings

FSDP = Settings(
    path="Qwen/Qwen2.5-7B", cpu=False, nodes=1, gpus_per_node=8,
    prompts=256, responses=16, mini_prompts=64, epochs=1, prompt_tokens=2048, response_tokens=8192,
    megatron=False, fsdp2=True, shards=8, reshard=True, sequence=1, tensor=1, pipeline=1, expert=1, expert_tensor=1,
    distributed_optimizer=True, weight=4, compute=2, reduce=4, master=(0, 0),
    param_offload=False, optimizer_offload=False, stay_offloaded=False, optimizer_on_cpu=False, checkpointing=True,
    flash=True, remove_padding=True, fused=False, entropy=False, chunking=True, entropy_checkpointing=False, chunk=2048,
    temperature_one=True, dynamic=True, update_limit=16384, log_prob_dynamic=True, log_prob_limit=16384,
    lora_rank=0, lora_targets="all-linear", lora_excluded=None,
    reference=False, reference_offload=True, old_log_probs=True,
    apart=False, rollout_gpus=8, rollout_tensor=1, rollout_data=1, rollout_expert=1, rollout_bytes=2,
    utilization=0.6, running=256, model_length=10240, batched_tokens=8192, sleeps=True, bucket=2**31, kv_space=0,
)  # fmt: skip
"""The 7B model of configs/backend/fsdp.yaml on one node, with the batches of configs/experiment/espo.yaml."""

MEGATRON = replace(
    FSDP, path="Qwen/Qwen3-30B-A3B-Base", nodes=2, megatron=True, fsdp2=False, shards=1, tensor=4, expert=8,
    weight=2, master=(4, 12), chunking=False, param_offload=True, optimizer_offload=True, rollout_gpus=16,
    rollout_tensor=4, rollout_expert=4,
)  # fmt: skip
"""configs/backend/megatron.yaml on two nodes."""


def fsdp(**changes: Any) -> Settings:
    return replace(FSDP, **changes)


def megatron(**changes: Any) -> Settings:
    return replace(MEGATRON, **changes)

"""Settings that make a run smaller, each tried by itself: by how many bytes, and whether it then fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from verl_ext.sizing.layout import ACTOR, MODEL, ROLLOUT
from verl_ext.sizing.planning import Plan, plan
from verl_ext.sizing.settings import Settings

LORA_RANK = 32
LEAST_UTILIZATION = 0.3
WORTH = 0.02
"""Share of the GPU's memory below which a saving is not worth a line."""


MOST_TOGETHER = 4


@dataclass(frozen=True)
class Knob:
    """One change and its effect.

    Attributes:
        setting: as an override.
        saved: bytes of the fullest phase, on one GPU.
        fits: the run fits with this change alone.
        price: what it costs.
    """

    setting: str
    saved: float
    fits: bool
    price: str


def helpful(before: Plan) -> list[Knob]:
    """The changes that help, those that suffice first, then by what they save."""
    found = []
    for setting, price, changed in _candidates(before.settings):
        after = plan(before.model, changed, before.gpu)
        saved = before.fullest.total - after.fullest.total
        if saved > WORTH * before.gpu.memory or (after.fits and not before.fits):
            found.append(Knob(setting, saved, after.fits, price))
    return sorted(found, key=lambda knob: (not knob.fits, -knob.saved))


def together(before: Plan) -> list[Knob]:
    """Few changes that make the run fit when made one after another; empty if none are found.

    The one that removes most of what is missing comes first. LoRA is not proposed: it trains another model.
    """
    found: list[Knob] = []
    now = before
    while not now.fits and len(found) < MOST_TOGETHER:
        tried = [
            (setting, price, plan(now.model, changed, now.gpu))
            for setting, price, changed in _candidates(now.settings)
            if changed.lora_rank == now.settings.lora_rank
        ]
        if not tried:
            return []
        setting, price, after = min(tried, key=lambda one: _excess(one[2]))
        if _excess(after) >= _excess(now):
            return []
        found.append(Knob(setting, now.fullest.total - after.fullest.total, after.fits, price))
        now = after
    return found if now.fits else []


def _excess(one: Plan) -> float:
    """Bytes that are missing, over all phases, the cache of one sequence included."""
    over = sum(max(0.0, phase.total - one.gpu.memory) for phase in one.phases)
    return over + max(0.0, one.engine.longest - one.engine.cache)


def _candidates(now: Settings) -> Iterator[tuple[str, str, Settings]]:
    yield from _tokens(now)
    yield from (_megatron(now) if now.megatron else _fsdp(now))
    yield from _rollout(now)
    if not now.chunking and not (now.megatron and now.entropy):
        key = f"{ACTOR}.entropy_from_logits_with_chunking=true"
        yield key, "none; on packed sequences", replace(now, chunking=True)
    if not now.lora_rank:
        key = f"{MODEL}.lora_rank={LORA_RANK}"
        yield key, "adapters alone are trained", replace(now, lora_rank=LORA_RANK, reference=False)
    if not now.cpu:
        yield f"trainer.nnodes={2 * now.nodes}", "twice the GPUs", _nodes(now)


def _tokens(now: Settings) -> Iterator[tuple[str, str, Settings]]:
    """Half the tokens of a micro-batch, while the longest sequence still fits into one."""
    pairs: tuple[tuple[str, str, int, bool], ...] = (
        (f"{ACTOR}.ppo_max_token_len_per_gpu", "update_limit", now.update_limit, now.dynamic),
        (f"{ROLLOUT}.log_prob_max_token_len_per_gpu", "log_prob_limit", now.log_prob_limit, now.log_prob_dynamic),
    )
    both: dict[str, Any] = {}
    for key, field, limit, dynamic in pairs:
        if dynamic and limit // 2 * now.sequence >= now.longest:
            both[field] = limit // 2
            yield f"{key}={limit // 2}", "more micro-batches", _with(now, field, limit // 2)
        elif not dynamic and limit > 1:
            name = key.replace("max_token_len_per_gpu", "micro_batch_size_per_gpu")
            yield f"{name}={limit // 2}", "more micro-batches", _with(now, field, limit // 2)
    if len(both) == len(pairs):
        yield "both of these token limits halved", "more micro-batches", replace(now, **both)


def _fsdp(now: Settings) -> Iterator[tuple[str, str, Settings]]:
    engine = f"{ACTOR}.fsdp_config"
    slower = "transfers over PCIe"
    if not now.param_offload:
        yield f"{engine}.param_offload=true", slower, replace(now, param_offload=True)
    if not now.optimizer_offload:
        yield f"{engine}.optimizer_offload=true", slower, replace(now, optimizer_offload=True)
    if not (now.param_offload or now.optimizer_offload):
        both = replace(now, param_offload=True, optimizer_offload=True)
        yield f"{engine}.param_offload=true and optimizer_offload=true", slower, both
    if now.fsdp2 and not now.stay_offloaded:
        yield f"{engine}.offload_policy=true", "the optimizer steps on the host", replace(now, stay_offloaded=True)
    if not now.checkpointing:
        key = f"{MODEL}.enable_gradient_checkpointing=true"
        yield key, "a third more operations in updates", replace(now, checkpointing=True)
    if now.shards < now.gpus:
        yield f"{engine}.fsdp_size=-1", "gathers across nodes", replace(now, shards=now.gpus)
    if now.entropy and not now.entropy_checkpointing:
        yield f"{engine}.entropy_checkpointing=true", "entropies twice", replace(now, entropy_checkpointing=True)
    if not now.fused and now.remove_padding:
        yield f"{MODEL}.use_fused_kernels=true", "none that is known", replace(now, fused=True)
    if now.gpus % (2 * now.sequence) == 0 and now.flash and now.remove_padding and not now.cpu:
        limits = replace(now, sequence=2 * now.sequence)
        halved = replace(limits, update_limit=-(-now.update_limit // 2), log_prob_limit=-(-now.log_prob_limit // 2))
        key = f"{engine}.ulysses_sequence_parallel_size={2 * now.sequence} with half the token limits"
        yield key, "exchanges within attention", halved if now.dynamic and now.log_prob_dynamic else limits


def _megatron(now: Settings) -> Iterator[tuple[str, str, Settings]]:
    engine = f"{ACTOR}.megatron"
    for field, key, price in (
        ("tensor", "tensor_model_parallel_size", "exchanges within layers"),
        ("pipeline", "pipeline_model_parallel_size", "idle stages"),
        ("expert", "expert_model_parallel_size", "exchanges of tokens"),
    ):
        doubled = _with(now, field, 2 * getattr(now, field))
        experts = doubled.expert * doubled.expert_tensor * doubled.pipeline
        whole = doubled.tensor * doubled.pipeline * doubled.sequence
        if now.gpus % experts == 0 and now.gpus % whole == 0:
            yield f"{engine}.{key}={getattr(doubled, field)}", price, doubled
    if not now.param_offload:
        yield f"{engine}.param_offload=true", "transfers over PCIe", replace(now, param_offload=True)
    if not now.optimizer_offload:
        yield f"{engine}.optimizer_offload=true", "transfers over PCIe", replace(now, optimizer_offload=True)
    if not now.checkpointing:
        key = f"{engine}.override_transformer_config.recompute_granularity=full (uniform, 1 layer)"
        yield key, "a third more operations in updates", replace(now, checkpointing=True)
    if not now.optimizer_on_cpu:
        key = f"{ACTOR}.optim.override_optimizer_config.optimizer_cpu_offload=true"
        yield key, "the optimizer steps on the host", replace(now, optimizer_on_cpu=True)


def _rollout(now: Settings) -> Iterator[tuple[str, str, Settings]]:
    if now.cpu:
        return
    if not now.sleeps:
        yield f"{ROLLOUT}.free_cache_engine=true", "waking up each step", replace(now, sleeps=True)
    lower = round(now.utilization - 0.1, 2)
    if lower >= LEAST_UTILIZATION:
        key = f"{ROLLOUT}.gpu_memory_utilization={lower:g}"
        yield key, "fewer sequences at a time", replace(now, utilization=lower)
    higher = round(now.utilization + 0.1, 2)
    if higher <= 0.9:
        key = f"{ROLLOUT}.gpu_memory_utilization={higher:g}"
        yield key, "less beside the rollouts", replace(now, utilization=higher)
    ways = 2 * now.rollout_tensor
    if now.gpus_per_node % ways == 0:
        wider = replace(now, rollout_tensor=ways, rollout_expert=max(ways, now.rollout_expert))
        yield f"{ROLLOUT}.tensor_model_parallel_size={ways}", "fewer engines", wider


def _with(now: Settings, field: str, value: Any) -> Settings:
    changes: dict[str, Any] = {field: value}
    return replace(now, **changes)


def _nodes(now: Settings) -> Settings:
    shards = 2 * now.shards if now.shards == now.gpus else now.shards
    rollouts = now.rollout_gpus if now.apart else 2 * now.rollout_gpus
    return replace(now, nodes=2 * now.nodes, shards=shards, rollout_gpus=rollouts)

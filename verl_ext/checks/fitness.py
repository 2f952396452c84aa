"""Whether the parts of a configuration fit together: GPUs, batches, lengths, clip range, precision, router replay."""

from __future__ import annotations

from typing import Any

from verl_ext.sizing.layout import ACTOR, MODEL, ROLLOUT, layout, megatron

TOKEN_CLIPPED = ("vanilla", "clip_cov")
"""Losses of verl's that clip the ratio of each token by ``clip_ratio_low`` and ``clip_ratio_high``."""

LEAST_TOKEN_CLIP = 0.01
"""A log-prob in bfloat16 near 1 moves in steps of 2^-7 = 0.008: within a narrower range rounding alone clips."""

GREATEST_LORA_RANK = 512
"""Of vLLM 0.24 and 0.28."""

FLOAT32 = ("fp32", "float32", "float")


def faults(config: Any) -> list[str]:
    """Every fault found by the functions below."""
    return [*stopping(config), *advice(config)]


def stopping(config: Any) -> list[str]:
    """Faults that would stop any run, be it ours or not."""
    return engine_faults(config) or [*layout_faults(config), *lora_faults(config)]


def advice(config: Any) -> list[str]:
    """What would make a run pointless or stop it in the middle: verl may well accept it."""
    if engine_faults(config):
        return []
    checks = (batch_faults, length_faults, replay_faults, clip_faults, precision_faults)
    return [fault for found in checks for fault in found(config)]


def engine_faults(config: Any) -> list[str]:
    """A back end composed on the other engine's defaults, so that half of its settings belong to nobody."""
    actor = config.actor_rollout_ref.actor
    engine = "megatron" if "optim" in actor and str(actor._target_).endswith("McoreActorConfig") else "dp"
    wanted = "megatron" if megatron(config) else "dp"
    if not str(actor.strategy).startswith(("fsdp", "megatron")) or engine == wanted:
        return []
    return [
        f"{ACTOR}.strategy={actor.strategy} with verl's defaults of model_engine={engine}; add model_engine={wanted}, "
        f"or let verl-ext train choose"
    ]


def layout_faults(config: Any) -> list[str]:
    """GPUs that cannot be divided as the engines want them."""
    actor, rollout, plan = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, layout(config)
    found = []
    if plan.gpus < 1 or plan.gpus % plan.model_parallel:
        found.append(
            f"trainer.nnodes * trainer.n_gpus_per_node = {plan.gpus} GPUs cannot be divided into groups of "
            f"{plan.model_parallel} (model and sequence parallel sizes of {ACTOR})"
        )
    if megatron(config):
        engine = actor.megatron
        tensor = engine.expert_tensor_parallel_size or engine.tensor_model_parallel_size
        experts = tensor * engine.expert_model_parallel_size * engine.pipeline_model_parallel_size
        if plan.gpus % experts:
            found.append(
                f"{plan.gpus} GPUs cannot be divided into groups of {experts} ({ACTOR}.megatron: "
                f"expert_tensor * expert_model * pipeline parallel sizes)"
            )
    apart = not config.actor_rollout_ref.hybrid_engine
    pool = rollout.nnodes * rollout.n_gpus_per_node if apart else plan.gpus
    replica = rollout.tensor_model_parallel_size * rollout.data_parallel_size
    if pool % replica:
        found.append(
            f"{pool} GPUs cannot be divided into replicas of {replica} ({ROLLOUT}.tensor_model_parallel_size * "
            f"data_parallel_size)"
        )
    return found


def batch_faults(config: Any) -> list[str]:
    """Batches, mini-batches and micro-batches that do not divide."""
    actor, plan = config.actor_rollout_ref.actor, layout(config)
    train, mini, n = config.data.train_batch_size, actor.ppo_mini_batch_size, config.actor_rollout_ref.rollout.n
    keys = f"data.train_batch_size={train}", f"{ACTOR}.ppo_mini_batch_size={mini}"
    if train < mini:
        return [f"{keys[0]} is below {keys[1]}: not one mini-batch would be full"]
    found = []
    if train % mini:
        found.append(
            f"{keys[0]} is no multiple of {keys[1]}: verl fills the last mini-batch up with empty rows, which count in "
            f"its mean"
        )
    rows, ranks = mini * n, max(plan.data_parallel, 1)
    if plan.gpus % plan.model_parallel:
        return found
    if rows % ranks:
        found.append(
            f"{keys[1]} * {ROLLOUT}.n={n} = {rows} rows cannot be divided among {ranks} data parallel ranks "
            f"({plan.gpus} GPUs)"
        )
    micro = actor.get("ppo_micro_batch_size_per_gpu", None)
    if not actor.use_dynamic_bsz and micro and not rows % ranks and (rows // ranks) % micro:
        found.append(
            f"{keys[1]} * {ROLLOUT}.n={n} / {ranks} ranks = {rows // ranks} rows a GPU are no multiple of "
            f"{ACTOR}.ppo_micro_batch_size_per_gpu={micro}"
        )
    return found


def length_faults(config: Any) -> list[str]:
    """Sequences that are longer than what must hold them."""
    actor, rollout, ref = (config.actor_rollout_ref[part] for part in ("actor", "rollout", "ref"))
    tokens = config.data.max_prompt_length + config.data.max_response_length
    said = f"data.max_prompt_length + data.max_response_length = {tokens} tokens"
    found = []
    if rollout.max_model_len is not None and tokens > rollout.max_model_len:
        found.append(f"{said} are more than {ROLLOUT}.max_model_len={rollout.max_model_len}")
    parallel = layout(config).sequence_parallel
    budgets = [(actor.use_dynamic_bsz, f"{ACTOR}.ppo_max_token_len_per_gpu", actor.ppo_max_token_len_per_gpu)]
    key = "log_prob_max_token_len_per_gpu"
    budgets.append((rollout.log_prob_use_dynamic_bsz, f"{ROLLOUT}.{key}", rollout[key]))
    if actor.use_kl_loss or config.algorithm.use_kl_in_reward:
        budgets.append((ref.log_prob_use_dynamic_bsz, f"actor_rollout_ref.ref.{key}", ref[key]))
    for dynamic, name, budget in budgets:
        if dynamic and tokens > budget * parallel:
            times = f" * {parallel} GPUs a sequence" if parallel > 1 else ""
            found.append(f"{said} do not fit into one micro-batch of {name}={budget}{times}")
    return found


def replay_faults(config: Any) -> list[str]:
    """Router replay where the engine has none, or switched on at one end only."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    engine = actor.get("megatron" if megatron(config) else "fsdp_config", None) or {}
    mode = (engine.get("router_replay", None) or {}).get("mode", "disabled")
    sends = f"{ROLLOUT}.enable_rollout_routing_replay"
    if not megatron(config):
        asked = [f"{ACTOR}.fsdp_config.router_replay.mode={mode}"] if mode != "disabled" else []
        asked += [f"{sends}=true"] if rollout.enable_rollout_routing_replay else []
        return [f"{key}: FSDP cannot replay a router's choices; use backend=megatron" for key in asked]
    if (mode == "R3") == rollout.enable_rollout_routing_replay:
        return []
    want = "R3 replays what the rollout sends" if mode == "R3" else "nobody reads what the rollout sends"
    sent = str(rollout.enable_rollout_routing_replay).lower()
    return [f"{ACTOR}.megatron.router_replay.mode={mode} with {sends}={sent}: {want}; set R3 and true, or neither"]


def clip_faults(config: Any) -> list[str]:
    """A clip range made for ratios of sequences on a loss that clips ratios of tokens."""
    from verl_ext.plugin import POLICY_LOSSES, clip_range

    actor = config.actor_rollout_ref.actor
    loss = actor.policy_loss.get("loss_mode", "vanilla")
    low, high = clip_range(actor)
    by_token = POLICY_LOSSES[loss].token_clipped if loss in POLICY_LOSSES else loss in TOKEN_CLIPPED
    if not by_token or max(low, high) >= LEAST_TOKEN_CLIP:
        return []
    return [
        f"{ACTOR}.clip_ratio_low={low:g}, clip_ratio_high={high:g}: {loss} clips the ratio of each token, which leaves "
        f"so narrow a range by rounding alone, so that hardly a token would learn; use about 0.2, or a sequence's loss"
    ]


def precision_faults(config: Any) -> list[str]:
    """Entropies that a method reads, computed in less than float32."""
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    readers = entropy_readers(config)
    if megatron(config) or not readers:
        return []
    engine = actor.fsdp_config
    computed_in = (engine.get("mixed_precision", None) or {}).get("param_dtype", "bf16")
    if computed_in in FLOAT32:
        return []
    absent = []
    if not engine.entropy_from_logits_with_chunking:
        absent.append(f"{ACTOR}.entropy_from_logits_with_chunking=true")
    if not model.use_remove_padding:
        absent.append(f"{MODEL}.use_remove_padding=true")
    if not absent:
        return []
    return [
        f"{' and '.join(readers)} reads entropies that FSDP would compute from {computed_in} logits without a cast to "
        f"float32; set {' and '.join(absent)}"
    ]


def entropy_readers(config: Any) -> list[str]:
    """What reads entropies of the actor's forward passes."""
    from verl_ext import plugin
    from verl_ext.rollout import source

    actor = config.actor_rollout_ref.actor
    fields = {"entropy"} if source.bypassed(config) else {"entropy", "old_entropy"}
    loss, estimator = actor.policy_loss.get("loss_mode", "vanilla"), str(config.algorithm.adv_estimator)
    named = ((loss, plugin.POLICY_LOSSES, actor.policy_loss), (estimator, plugin.ESTIMATORS, config.algorithm))
    found = [name for name, table, node in named if name in table and fields & set(table[name].needed(node))]
    return [*found, f"{ACTOR}.entropy_coeff"] if actor.get("entropy_coeff", 0) else found


def lora_faults(config: Any) -> list[str]:
    """A LoRA rank that vLLM has no room for."""
    model = config.actor_rollout_ref.model
    rank = (model.get("lora", None) or {}).get("rank", 0) or model.get("lora_rank", 0)
    if rank <= GREATEST_LORA_RANK:
        return []
    return [f"{MODEL}.lora_rank={rank}: vLLM serves ranks up to {GREATEST_LORA_RANK}"]

"""Whether a model can be cut as Megatron is asked to cut it, and whether router replay has what it needs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from verl_ext.sizing.layout import ACTOR, MODEL, megatron

if TYPE_CHECKING:
    from verl_ext.sizing.model import Model

ENGINE = f"{ACTOR}.megatron"


def faults(config: Any) -> list[str]:
    """What Megatron or verl's engine for it would refuse, or worse, only after the weights are loaded.

    Which GPUs there are is `verl_ext.checks.fitness`'s business. A model whose sizes are not known here is not judged.

    Example:
        >>> from verl_ext.train import compose
        >>> options = ["algo=espo", "backend=megatron", "cluster=4x8", "model=qwen3_30b_a3b_base"]
        >>> faults(compose(options).config)
        []
    """
    if not megatron(config):
        return []
    model = sizes(config.actor_rollout_ref.model.path)
    engine = config.actor_rollout_ref.actor.megatron
    found = pipeline_faults(engine) + replay_faults(engine)
    return found + (shape_faults(engine, model) if model else [])


@cache
def sizes(name: str) -> Model | None:
    """The model's sizes, None where they are not known on this machine."""
    from verl_ext.sizing.measuring import measure

    try:
        return measure(name)
    except ValueError:  # it says where to look for the sizes; here they are not asked for
        return None


def pipeline_faults(engine: Any) -> list[str]:
    """Interleaving of layers between stages of a pipeline that has none."""
    virtual = engine.virtual_pipeline_model_parallel_size
    if virtual is None or engine.pipeline_model_parallel_size > 1:
        return []
    return [
        f"{ENGINE}.virtual_pipeline_model_parallel_size={virtual} with pipeline_model_parallel_size="
        f"{engine.pipeline_model_parallel_size}: only a pipeline of two stages or more can be interleaved"
    ]


def replay_faults(engine: Any) -> list[str]:
    """Router replay together with what verl's engine refuses in its first forward pass."""
    mode = engine.router_replay.mode
    if mode == "disabled" or not (engine.pad_to_length and engine.use_remove_padding):
        return []
    return [f"{ENGINE}.router_replay.mode={mode} with {ENGINE}.pad_to_length=true: verl's engine does not do both"]


def shape_faults(engine: Any, model: Model) -> list[str]:
    """Heads, layers and experts of the model that cannot be divided."""
    tensor, experts = engine.tensor_model_parallel_size, engine.expert_model_parallel_size
    stages = engine.pipeline_model_parallel_size * (engine.virtual_pipeline_model_parallel_size or 1)
    heads = model.query * model.heads_key_value // model.key_value
    pairs = model.heads_key_value
    found = []
    if heads % tensor or (pairs % tensor and tensor % pairs):
        found.append(
            f"{ENGINE}.tensor_model_parallel_size={tensor} does not divide the {heads} heads and {pairs} key-value "
            f"heads of {model.name}"
        )
    uneven = any(name.startswith("num_layers_in") for name in engine.override_transformer_config)
    if model.layers % stages and not uneven:
        found.append(
            f"{ENGINE}: pipeline times virtual pipeline parallel sizes = {stages} do not divide the {model.layers} "
            f"layers of {model.name}; where the first or last stage has fewer, set "
            f"override_transformer_config.num_layers_in_first_pipeline_stage or ..._last_..."
        )
    if experts > 1 and (model.experts == 0 or model.experts % experts):
        has = f"{model.experts} experts" if model.experts else "no experts"
        found.append(f"{ENGINE}.expert_model_parallel_size={experts}: {model.name} has {has}")
    if engine.router_replay.mode != "disabled" and not model.experts:
        found.append(
            f"{ENGINE}.router_replay.mode={engine.router_replay.mode}: {MODEL}.path={model.name} has no router"
        )
    return found

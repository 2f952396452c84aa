"""How the actor's processes are laid out, read from a composed configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"


@dataclass(frozen=True)
class Layout:
    """How the actor's processes are laid out.

    Attributes:
        gpus: all of them.
        model_parallel: GPUs that share one copy of the data: sequence, tensor, pipeline and context parallel.
        sequence_parallel: GPUs that share one sequence, each with a part of its tokens.
    """

    gpus: int
    model_parallel: int
    sequence_parallel: int

    @property
    def data_parallel(self) -> int:
        return self.gpus // self.model_parallel


def megatron(config: Any) -> bool:
    return config.actor_rollout_ref.actor.strategy == "megatron"


def layout(config: Any) -> Layout:
    """The actor's layout; one process a GPU."""
    actor = config.actor_rollout_ref.actor
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if megatron(config) and "megatron" in actor:
        engine = actor.megatron
        context = engine.context_parallel_size
        return Layout(gpus, engine.tensor_model_parallel_size * engine.pipeline_model_parallel_size * context, context)
    engine = actor.get("fsdp_config", None) or {}
    ulysses = max(actor.get("ulysses_sequence_parallel_size", 1), engine.get("ulysses_sequence_parallel_size", 1))
    return Layout(gpus, ulysses, ulysses)


def flash_attention(model: Any) -> bool:
    """Whether a model of an FSDP engine attends by flash attention; verl's own choice is ``flash_attention_2``."""
    return "flash" in str((model.get("override_config", None) or {}).get("attn_implementation", None) or "flash")

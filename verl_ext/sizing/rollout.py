"""Bytes of a rollout engine on one GPU: weights, and what is left for keys and values.

With tensor parallel size t, layers L, and keys of width k in b bytes::

    weights          b (P - E - R) / t + b E / e + b R    E: experts, divided by e, t without expert parallelism
                                                  R: vectors and routers, which every GPU has
    a token's cache  2 L k b / t                  keys and values; a head is never divided
    cache            utilization x memory - weights - workspace
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.sizing.activations import layer
from verl_ext.sizing.model import Model
from verl_ext.sizing.settings import Settings

LOGITS = 4
"""vLLM samples from float32 logits."""


@dataclass(frozen=True)
class Engine:
    """One GPU's part of a rollout engine.

    Attributes:
        weights: bytes.
        workspace: bytes of a forward pass over the most tokens at once, and of the sampler.
        cache: bytes for keys and values; below 0 if the weights leave no room.
        token: bytes of one token's keys and values.
        replicas: engines in the cluster.
        together: sequences of the longest length that fit into the cache, at most `max_num_seqs`.
    """

    weights: float
    workspace: float
    cache: float
    token: float
    replicas: int
    together: float

    @property
    def total(self) -> float:
        return self.weights + self.workspace + max(0.0, self.cache)


def engine(model: Model, settings: Settings, memory: float) -> Engine:
    """The engine on a GPU with so many bytes of memory."""
    size, ways = settings.rollout_bytes, settings.rollout_tensor
    dense = model.total - model.expert - model.replicated
    weights = size * (dense / ways + model.expert / settings.rollout_expert + model.replicated)
    if settings.lora_rank:
        weights += size * model.adapters(settings.lora_rank, settings.lora_targets, settings.lora_excluded) / ways
    per_head = model.key_value / model.heads_key_value
    token = 2 * model.layers * size * per_head * -(-model.heads_key_value // ways)
    work = settings.batched_tokens * layer(model, size) / ways + settings.running * model.vocabulary * LOGITS
    cache = settings.kv_space if settings.cpu else settings.utilization * memory - weights - work
    together = min(settings.running, max(0.0, cache) / (token * settings.model_length))
    replicas = max(1, settings.rollout_gpus // (ways * settings.rollout_data))
    return Engine(weights, work, cache, token, replicas, together)

"""Bytes of a rollout engine on one GPU: weights, and what is left for keys and values.

With tensor parallel size t, and for each kind of layers L of them, H heads of w values (keys and values) in b bytes::

    weights          b (P - E - R) / t + b E / e + b R    E: experts, divided by e, t without expert parallelism
                                                  R: vectors and routers, which every GPU has
    a sequence       L ceil(H / t) w b min(length, window)    a head is never divided
                     2 L (state and recurrent values) / t     however long the sequence is
    cache            utilization x memory - weights - workspace

That is how vLLM keeps them (read in 0.28: ``v1/kv_cache_interface.py``, ``v1/core/kv_cache_utils.py``,
``config/vllm.py``, ``model_executor/models/config.py``): multi-head latent attention (MLAAttentionSpec) has one head,
the latent and the rotary key, whole on every GPU; its hybrid manager frees what has left a sliding window; chunked
attention (Llama 4) is kept whole, since the manager is off for it by default; with prefix caching, which verl turns
on, a linear layer has two states a sequence (``align``). Not counted: a block more at a window's edge, and what groups
of unequal numbers of layers are filled up with (of Gemma-3-4b one layer in 35).
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.sizing.activations import layer
from verl_ext.sizing.model import Model
from verl_ext.sizing.settings import Rollouts

LOGITS = 4
"""vLLM samples from float32 logits, and may keep recurrent states in float32."""
STATES = 2
"""Of a linear layer and sequence."""


@dataclass(frozen=True)
class Engine:
    """One GPU's part of a rollout engine.

    Attributes:
        weights: bytes.
        workspace: bytes of a forward pass over the most tokens at once, and of the sampler.
        cache: bytes for keys and values; below 0 if the weights leave no room.
        longest: bytes of a sequence of the longest length in it.
        replicas: engines in the cluster.
        together: sequences of the longest length that fit into the cache, at most `max_num_seqs`.
    """

    weights: float
    workspace: float
    cache: float
    longest: float
    replicas: int
    together: float

    @property
    def total(self) -> float:
        return self.weights + self.workspace + max(0.0, self.cache)


def kept(model: Model, settings: Rollouts, length: float) -> float:
    """Bytes that one GPU keeps of a sequence of so many tokens.

    Example:
        >>> from types import SimpleNamespace
        >>> from verl_ext.sizing.measuring import measure
        >>> kept(measure("Qwen/Qwen2.5-7B"), SimpleNamespace(rollout_bytes=2, rollout_tensor=1), 1)
        57344.0
    """
    size, ways, found = settings.rollout_bytes, settings.rollout_tensor, 0.0
    for one in model.caches:
        found += one.layers * -(-one.heads // ways) * one.width * size * min(length, one.window or length)
        recurrent = one.recurrent * (LOGITS if one.float32 else size)
        found += STATES * one.layers * (one.state * size + recurrent) / ways
    return found


def engine(model: Model, settings: Rollouts, memory: float) -> Engine:
    """The engine on a GPU with so many bytes of memory."""
    size, ways = settings.rollout_bytes, settings.rollout_tensor
    dense = model.total - model.expert - model.replicated
    weights = size * (dense / ways + model.expert / settings.rollout_expert + model.replicated)
    if settings.lora_rank:
        weights += size * model.adapters(settings.lora_rank, settings.lora_targets, settings.lora_excluded) / ways
    longest = kept(model, settings, settings.model_length)
    work = settings.batched_tokens * layer(model, size) / ways + settings.running * model.vocabulary * LOGITS
    cache = settings.kv_space if settings.cpu else settings.utilization * memory - weights - work
    together = min(settings.running, max(0.0, cache) / longest)
    replicas = max(1, settings.rollout_gpus // (ways * settings.rollout_data))
    return Engine(weights, work, cache, longest, replicas, together)

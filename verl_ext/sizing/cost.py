"""Operations and seconds of a step.

With M entries in the matrices that a token meets, L layers, query width q and a sequence of s tokens, a token costs
forwards, causal attention at half the square (PaLM, arXiv 2204.02311, appendix B, halved)::

    2 M + 2 L q s        with a window w < s: 2 L q (2 w - w^2 / s); without attention: nothing besides 2 M

twice that backwards, and once more the layers' part where activations are computed again. verl's own counter adds the
input embedding, which multiplies nothing. Generation reads weights and cache for each token of all running sequences::

    seconds of a decoding step  (weights + running x bytes kept of a sequence of the mean length) / bandwidth

Lengths are not known before a run: a prompt is taken as `PROMPT_TOKENS`, a response as `RESPONSE_SHARE` of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.sizing.gpus import GPU
from verl_ext.sizing.model import Model
from verl_ext.sizing.rollout import Engine, kept
from verl_ext.sizing.settings import Rollouts, Settings
from verl_ext.sizing.states import trained

TRAIN_EFFICIENCY = 0.35
"""Share of the peak that training reaches; 0.3 to 0.5 is common for dense models of this size."""
PREFILL_EFFICIENCY = 0.4
BANDWIDTH_EFFICIENCY = 0.6
HOST_BANDWIDTH = 25e9
"""Bytes a second between host and GPU, of PCIe 4.0 or 5.0 with sixteen lanes, half used."""
PROMPT_TOKENS = 200
RESPONSE_SHARE = 0.5


@dataclass(frozen=True)
class Cost:
    """One step of the whole cluster.

    Attributes:
        tokens: of prompts and responses.
        operations: by part: update, old_log_probs, reference, rollout.
        seconds: by part; `offload` is moving states between host and GPU.
    """

    tokens: float
    operations: dict[str, float]
    seconds: dict[str, float]

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def lengths(settings: Rollouts) -> tuple[float, float]:
    """Expected tokens of a prompt and of a response."""
    return min(PROMPT_TOKENS, settings.prompt_tokens), RESPONSE_SHARE * settings.response_tokens


def forward(model: Model, length: float) -> float:
    """Operations of one token, forwards, in a sequence of so many tokens.

    Example:
        >>> from verl_ext.sizing.measuring import measure
        >>> forward(measure("Qwen/Qwen2.5-7B"), 0) // 2
        7070285824
    """
    return 2 * model.matrices + 2 * model.query * sum(one.layers * one.attended(length) for one in model.caches)


def trained_token(model: Model, length: float, checkpointing: bool, frozen: bool = False) -> float:
    """Operations of one token of an update: forwards, backwards, and the layers again with checkpointing.

    Args:
        frozen: of weights that are not trained, which need no gradient of their own.
    """
    once = forward(model, length)
    again = once - 2 * model.vocabulary * model.hidden if checkpointing else 0
    return once + (once if frozen else 2 * once) + again


def cost(model: Model, settings: Settings, engine: Engine, gpu: GPU, moved: float) -> Cost:
    """Operations and seconds of a step.

    Args:
        moved: bytes that one GPU exchanges with the host in a step.
    """
    prompt, response = lengths(settings)
    tokens = settings.rows * (prompt + response)
    once = forward(model, prompt + response)
    updated = trained_token(model, prompt + response, settings.checkpointing, frozen=bool(settings.lora_rank))
    operations = {
        "update": settings.epochs * tokens * updated,
        "old_log_probs": tokens * once * settings.old_log_probs,
        "reference": tokens * once * settings.reference,
        "rollout": (settings.prompts * prompt + settings.rows * response) * once,
    }
    peak = settings.gpus * gpu.operations * TRAIN_EFFICIENCY
    seconds = {part: operations[part] / peak for part in ("update", "old_log_probs", "reference")}
    seconds["rollout"] = rollout_seconds(model, settings, engine, gpu)
    seconds["offload"] = moved / HOST_BANDWIDTH
    return Cost(tokens, operations, seconds)


def rollout_seconds(model: Model, settings: Rollouts, engine: Engine, gpu: GPU) -> float:
    """Generation: prompts once, then decoding steps with as many sequences as fit; infinite if none does."""
    prompt, response = lengths(settings)
    own = settings.rows / engine.replicas
    together = min(own, settings.running, max(0.0, engine.cache) / kept(model, settings, prompt + response))
    if together <= 0:
        return float("inf")
    ways = settings.rollout_tensor
    read = engine.weights * _touched(model, together) + together * kept(model, settings, prompt + response / 2)
    compute = together * forward(model, prompt + response / 2) / (ways * gpu.operations * PREFILL_EFFICIENCY)
    step = max(read / (gpu.bandwidth * BANDWIDTH_EFFICIENCY), compute)
    prefill = settings.prompts / engine.replicas * prompt * forward(model, prompt)
    return response * own / together * step + prefill / (ways * gpu.operations * PREFILL_EFFICIENCY)


def _touched(model: Model, together: float) -> float:
    """Share of the weights that a decoding step reads: an expert only if a token is sent to it."""
    if not model.experts:
        return 1.0
    met = 1 - (1 - model.experts_per_token / model.experts) ** together
    return 1 - model.expert / model.total * (1 - met)


def moved_bytes(model: Model, settings: Settings, parameters: float, optimizer: float) -> float:
    """Bytes that offloading moves between host and GPU in a step: there and back for each phase that needs them."""
    passes = 1 + settings.old_log_probs + 1  # update, log-probs and weight sync
    found = 2 * passes * parameters if settings.param_offload else 0.0
    found += 2 * optimizer if settings.optimizer_offload else 0.0
    if settings.stay_offloaded:
        updates = settings.epochs * settings.prompts / settings.mini_prompts
        found += updates * 4 * (model.total * settings.weight + trained(model, settings) * settings.weight)
        found /= settings.shards
    return found

"""Bytes of activations, logits and entropies of one micro-batch on one GPU.

A token that goes through a layer leaves behind, for the backward pass (Korthikanti et al., arXiv 2205.05198, section
4.1, counted here for RMS norms in float32, grouped heads, flash attention and a gated feed-forward part)::

    8 h                    the two norms' inputs, in float32
    c (2 h)                the norms' outputs
    c (2 q + 2 k)          queries, keys and values, attention's output: q and k, the widths of queries and of keys
    c (4 f)                gate, up, the activated gate and its product with up: f, the inner width
    c (2 h) K + 4 E        experts only: a token's copies in and out for K experts, the router's E probabilities

With activation checkpointing only a layer's input, c h, is kept of each of L layers, and one layer at a time is
computed again. A pass without gradients keeps one layer. Logits and entropies have V entries a token::

    logits                 c V, and as much again where they are divided by a temperature other than 1
    their gradient         c V; log-probs write theirs into the logits where no entropy is computed as well
    entropy                12 V, of a chunk or of all tokens: probabilities, their product with the logits, and the
                           logits in float32, where they are not (8 V where they are); with gradients all but the
                           product remains of every token until the backward pass, unless it is checkpointed

Megatron divides what has TP parts by TP, keeps a stage's inputs for each of PP micro-batches in flight, and has its
logits in float32, once more where entropies are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.sizing.model import Model
from verl_ext.sizing.settings import Settings

FUSED_CHUNK = 512
"""Tokens whose logits verl's fused kernels hold at a time."""
FLOAT32 = 4
FUSED = 12
"""Bytes an entry of the vocabulary in a fused kernel's chunk: logits, probabilities and gradient in float32."""


@dataclass(frozen=True)
class Pass:
    """Bytes of the largest micro-batch.

    Attributes:
        activations: of the layers.
        logits: with their gradient.
        entropy: what entropies need besides.
    """

    activations: float
    logits: float
    entropy: float

    @property
    def total(self) -> float:
        return self.activations + self.logits + self.entropy


def layer(model: Model, compute: int) -> int:
    """Bytes that a token leaves behind in one layer."""
    own = 8 * model.hidden + compute * (2 * model.hidden + 2 * model.query + 2 * model.key_value + 4 * model.width)
    return own + (2 * compute * model.hidden * model.experts_per_token + 4 * model.experts if model.experts else 0)


def update(model: Model, settings: Settings) -> Pass:
    """Forwards and backwards."""
    tokens, compute = settings.update_tokens, settings.compute
    split = settings.tensor if settings.megatron else 1
    inside = layer(model, compute) / split
    kept = compute * model.hidden / split if settings.checkpointing else inside
    layers = -(-model.layers // settings.pipeline)
    again = inside if settings.checkpointing else 0
    outputs = _outputs(model, settings, tokens, settings.entropy, backward=True)
    last = Pass(tokens * (layers * kept + again), *outputs)
    first = Pass(tokens * (layers * kept * settings.pipeline + again), 0.0, 0.0)
    return max(last, first, key=lambda one: one.total)


def log_prob(model: Model, settings: Settings, entropy: bool = True) -> Pass:
    """Forwards alone. The old log-probs come with entropies, those of a reference do not."""
    tokens = settings.log_prob_tokens
    split = settings.tensor if settings.megatron else 1
    return Pass(tokens * layer(model, settings.compute) / split, *_outputs(model, settings, tokens, entropy, False))


def _outputs(model: Model, settings: Settings, tokens: int, entropy: bool, backward: bool) -> tuple[float, float]:
    """Bytes of logits, and of entropies."""
    if settings.fused and not settings.megatron:
        return min(tokens, FUSED_CHUNK) * model.vocabulary * FUSED, 0.0
    wide = 4 if settings.megatron else settings.compute
    copies = 1 + (not settings.megatron and not settings.temperature_one)
    if settings.megatron:
        copies += entropy
    if backward:
        # In place where nothing else needs the logits.
        copies += settings.megatron or entropy or settings.cpu
    entries = tokens * model.vocabulary / settings.tensor
    return copies * wide * entries, _entropy(settings, entries, tokens, backward) if entropy else 0.0


def _entropy(settings: Settings, entries: float, tokens: int, backward: bool) -> float:
    # Chunks are taken on packed sequences only.
    chunked = settings.chunking and (settings.remove_padding or settings.megatron)
    share = min(1.0, settings.chunk / tokens) if chunked and tokens else 1.0
    cast = 0 if settings.megatron or settings.compute == FLOAT32 else FLOAT32
    kept, product = FLOAT32 + cast, FLOAT32
    if not backward or settings.entropy_checkpointing:
        return (kept + product) * entries * share
    return kept * entries + product * entries * share

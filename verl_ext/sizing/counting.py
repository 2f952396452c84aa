"""Counting the sizes of a model that was built on the meta device, whatever its parts are called.

A layer's cache is read off the matrix that makes its keys, one of `_KEYS`, and its kind off the configuration's
``layer_types``. What has another form (Mamba, sparse attention with an index, cross-attention, two attentions in a
layer) is refused: a number would be a guess.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch.nn import Embedding, Module, ModuleList, Parameter

from verl_ext.sizing.configuration import REMEDY, build
from verl_ext.sizing.model import Cache, Model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_EXPERTS = ".experts."
_ROUTER = re.compile(r"\.(gate|router)\.weight$")
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
_ATTENTION = re.compile(r"attn|attention")
_KEYS = re.compile(r"(?<!cross_attn\.)\b(k_proj|kv_a_proj_with_mqa|c_attn|query_key_value|qkv_proj|Wqkv)\.weight$")
_ATTENDING = ("full_attention", "sliding_attention", "chunked_attention")
GATED = 3
"""Matrices of a gated feed-forward part: gate, up, down."""


def count(name: str, source: str, unverified: bool, config: PretrainedConfig) -> Model:
    """The sizes of a model by its configuration.

    Raises:
        ValueError: transformers cannot build it, or its layers, experts or caches are not where others have them.
    """
    module, text = build(name, config), config.get_text_config(decoder=True)
    layers, output = _layers(name, module, text), module.get_output_embeddings()
    caches = tuple(replace(kind, layers=count) for kind, count in Counter(_caches(name, layers, text)).items())
    entries = {key: parameter.numel() for key, parameter in module.named_parameters()}
    flat = {key for key in entries if module.get_parameter(key).ndim < 2}
    experts = next((size for key in _EXPERT_COUNTS if (size := getattr(text, key, None))), 0)
    chosen = next((size for key in _CHOSEN if (size := getattr(text, key, None))), 0) if experts else 0
    expert = sum(size for key, size in entries.items() if _EXPERTS in key)
    if bool(experts) != bool(expert and chosen):
        raise ValueError(
            f"the experts of {name} ({experts} a layer, {chosen} to a token) are not where others have them: {REMEDY}"
        )
    idle = expert - expert * chosen // experts if experts else 0
    total, embedding = sum(entries.values()), module.get_input_embeddings().weight
    head = 0 if output.weight is embedding else output.weight.numel()
    # Images and looked-up rows are not multiplied with a token; an embedding that is the output layer is.
    spoken = {id(one) for part in (module.get_decoder(), output) for one in part.parameters()}
    looked_up = {id(one.weight) for one in module.modules() if isinstance(one, Embedding)} - {id(output.weight)}
    met = {key for key in entries if id(module.get_parameter(key)) in spoken - looked_up} - flat
    inner = [
        one.numel()
        for layer in layers
        for key, one in layer.named_parameters()
        if one.ndim > 1 and not _ATTENTION.search(key) and not _ROUTER.search(key)
    ]
    heads, pair = _training_heads(text, caches)
    if not heads:
        raise ValueError(f"no layer of {name} ({text.model_type}) attends to all that came before: {REMEDY}")
    return Model(
        name=name,
        source=source,
        unverified=unverified,
        total=total,
        active=total - idle,
        embedding=embedding.numel(),
        head=head,
        expert=expert,
        replicated=sum(entries[key] for key in entries if key in flat or (experts and _ROUTER.search(key))),
        largest_layer=max(sum(one.numel() for one in layer.parameters()) for layer in layers),
        matrices=sum(entries[key] for key in met) - idle,
        vocabulary=output.weight.shape[0],
        layers=len(layers),
        hidden=text.hidden_size,
        query=text.num_attention_heads * pair,
        key_value=heads * pair,
        heads_key_value=heads,
        width=(sum(inner) - idle) // (GATED * text.hidden_size * len(layers)),
        experts=experts,
        experts_per_token=chosen,
        caches=caches,
    )


def _layers(name: str, module: PreTrainedModel, text: PretrainedConfig) -> list[Module]:
    """The language model's layers."""
    for part in module.get_decoder().modules():
        if isinstance(part, ModuleList) and len(part) == text.num_hidden_layers:
            return list(part)
    raise ValueError(f"{name} ({text.model_type}) has no {text.num_hidden_layers} layers in a row: {REMEDY}")


def _caches(name: str, layers: Sequence[Module], text: PretrainedConfig) -> Iterator[Cache]:
    """What each layer keeps of a sequence."""
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * len(layers)
    shared = len(layers) - (getattr(text, "num_kv_shared_layers", None) or 0)
    for number, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        found = {key: one for key, one in layer.named_parameters() if _KEYS.search(key)}
        states = {key: one for key, one in layer.named_parameters() if one.ndim == 3 and "conv" in key}
        if kind in ("linear_attention", "conv"):
            exact = getattr(text, "mamba_ssm_dtype", None) == "float32"
            yield Cache(1, state=sum(map(_convolved, states.values())), recurrent=_recurrent(kind, text), float32=exact)
        elif (
            kind not in _ATTENDING
            or [text.hidden_size in one.shape for one in found.values()] != [True]
            or states
            or any("indexer" in key for key in layer.state_dict())
        ):
            raise ValueError(f"what layer {number} of {name} ({text.model_type}, {kind}) caches is not known: {REMEDY}")
        else:
            own = _cache(layer, *found.popitem(), text)
            reach = window if kind == "sliding_attention" else None
            yield replace(own, window=reach, heads=own.heads if number < shared else 0)


def _cache(layer: Module, key: str, weight: Parameter, text: PretrainedConfig) -> Cache:
    """Of one attention layer, from the shape of the matrix that makes its keys."""
    outputs = weight.numel() // text.hidden_size
    if "kv_a_proj" in key:
        # The latent and the rotary key: kv_lora_rank + qk_rope_head_dim values.
        return Cache(1, heads=1, width=outputs)
    holder = layer.get_submodule(key.rsplit(".", 2)[0])
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = getattr(holder, "head_dim", size)
    if "k_proj" not in key:
        # One matrix for queries, keys and values.
        return Cache(1, heads=(outputs // size - text.num_attention_heads) // 2, width=2 * size)
    values = getattr(holder, "v_proj", None)
    both = outputs + (outputs if values is None else values.weight.numel() // text.hidden_size)
    return Cache(1, heads=outputs // size, width=both * size // outputs)


def _convolved(weight: Parameter) -> int:
    """Inputs that a causal convolution still needs."""
    return weight.shape[0] * (weight.shape[-1] - 1)


def _recurrent(kind: str, text: PretrainedConfig) -> int:
    if kind == "conv":
        return 0
    if hasattr(text, "linear_num_value_heads"):
        return text.linear_num_value_heads * text.linear_value_head_dim * text.linear_key_head_dim
    return text.hidden_size**2 // text.num_attention_heads


def _training_heads(text: PretrainedConfig, caches: Sequence[Cache]) -> tuple[int, int]:
    """Heads of keys while training, and the mean width of a head's key and value."""
    if getattr(text, "kv_lora_rank", None):
        # Keys and values are made of the latent for every head.
        return text.num_attention_heads, (text.qk_nope_head_dim + text.qk_rope_head_dim + text.v_head_dim) // 2
    heads, width = next(((one.heads, one.width) for one in caches if one.heads), (0, 0))
    return heads, width // 2

"""The sizes of a model: parameters counted on the meta device, and the widths that activations have."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.sizing import architectures

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
Targets = str | tuple[str, ...]

_EXPERTS = ".experts."
_ROUTER = ".mlp.gate.weight"


@dataclass(frozen=True)
class Model:
    """What the formulas need to know of a model.

    Attributes:
        name: as it was asked for.
        source: where its configuration was read; `unverified` if nobody has compared it with the hub's.
        total: all parameters, a shared embedding once.
        active: those that one token uses: all but the experts that it is not sent to.
        embedding: of the input embedding.
        head: of the output layer; 0 where it is the input embedding.
        expert: of all experts of all layers.
        replicated: vectors and routers, which tensor parallelism leaves whole.
        largest_layer: of the largest layer.
        matrices: entries of all matrices that a token is multiplied with, the output layer included.
        vocabulary: V.
        layers: number of them.
        hidden: width of the residual stream.
        query: heads x dimensions of a head.
        key_value: the same for keys, and for values.
        heads_key_value: heads of keys, and of values.
        width: inner width of the feed-forward part that a token meets; of experts, of all it is sent to.
        experts: experts of a layer, 0 if it is dense.
        experts_per_token: how many of them a token is sent to.
    """

    name: str
    source: str
    unverified: bool
    total: int
    active: int
    embedding: int
    head: int
    expert: int
    replicated: int
    largest_layer: int
    matrices: int
    vocabulary: int
    layers: int
    hidden: int
    query: int
    key_value: int
    heads_key_value: int
    width: int
    experts: int
    experts_per_token: int

    @property
    def body(self) -> int:
        """Parameters outside embedding and output layer."""
        return self.total - self.embedding - self.head

    def adapters(self, rank: int, targets: Targets, excluded: Targets | None = None) -> int:
        """Parameters of LoRA, as peft would add them: rank x (inputs + outputs) for each adapted matrix.

        Args:
            rank: 0 without LoRA.
            targets: ``all-linear``, a pattern for whole names, or the last parts of names.
            excluded: as `targets`, of what is left alone.
        """
        return rank * _adapters_of_rank_one(self.name, targets, excluded) if rank else 0


def measure(name: str) -> Model:
    """The sizes of a model by its folder, or by its name on the hub.

    A folder with a ``config.json`` is read; else the hub's cache on this machine; else `architectures`.

    Raises:
        ValueError: the model is found nowhere, or is no causal language model.

    Example:
        >>> moe = measure("Qwen/Qwen3-30B-A3B-Base")
        >>> moe.total, moe.active
        (30532122624, 3353032704)
    """
    config, source, unverified = _configuration(name)
    return _sizes(name, source, unverified, config)


def _configuration(name: str) -> tuple[PretrainedConfig, str, bool]:
    from transformers import AutoConfig

    file = _local(name)
    if file is not None:
        return AutoConfig.from_pretrained(file.parent, local_files_only=True), str(file), False
    known = architectures.find(name)
    if known is None:
        names = sorted(name for entry in architectures.published().values() for name in entry.names)
        raise ValueError(
            f"the sizes of {name} are not known here: give a folder with its config.json as "
            f"actor_rollout_ref.model.path, or one of {', '.join(names)}"
        )
    values = dict(known.config)
    return AutoConfig.for_model(values.pop("model_type"), **values), known.source, known.unverified


def _local(name: str) -> Path | None:
    """A config.json in a folder, or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    file = Path(name).expanduser() / "config.json"
    if file.is_file():
        return file
    if not _HUB_NAME.fullmatch(name):
        return None
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached) if isinstance(cached, str) else None


def _sizes(name: str, source: str, unverified: bool, config: PretrainedConfig) -> Model:
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{name} is a {config.model_type}: only causal language models can be sized")
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    entries = {key: parameter.numel() for key, parameter in module.named_parameters()}
    flat = sum(size for key, size in entries.items() if module.get_parameter(key).ndim < 2)
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 0
    chosen = config.num_experts_per_tok if experts else 0
    expert = sum(size for key, size in entries.items() if _EXPERTS in key)
    idle = expert - expert * chosen // experts if experts else 0
    total = sum(entries.values())
    embedding = module.get_input_embeddings().weight.numel()
    tied = module.get_output_embeddings().weight is module.get_input_embeddings().weight
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Model(
        name=name,
        source=source,
        unverified=unverified,
        total=total,
        active=total - idle,
        embedding=embedding,
        head=0 if tied else module.get_output_embeddings().weight.numel(),
        expert=expert,
        replicated=flat + sum(size for key, size in entries.items() if key.endswith(_ROUTER) and experts),
        largest_layer=max(_layers(entries).values()),
        matrices=total - idle - flat - (0 if tied else embedding),
        vocabulary=config.vocab_size,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query=config.num_attention_heads * head_size,
        key_value=config.num_key_value_heads * head_size,
        heads_key_value=config.num_key_value_heads,
        width=getattr(config, "moe_intermediate_size", config.intermediate_size) * chosen
        if experts
        else config.intermediate_size,
        experts=experts,
        experts_per_token=chosen,
    )


def _layers(entries: dict[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, size in entries.items():
        match = re.search(r"\.layers\.(\d+)\.", key)
        if match:
            found[match[1]] = found.get(match[1], 0) + size
    return found


@cache
def _adapters_of_rank_one(name: str, targets: Targets, excluded: Targets | None) -> int:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(_configuration(name)[0])

    def chosen(names: Targets | None) -> str | list[str] | None:
        return list(names) if isinstance(names, tuple) else names

    wanted = LoraConfig(
        task_type="CAUSAL_LM", r=1, target_modules=chosen(targets), exclude_modules=chosen(excluded)
    )  # fmt: skip
    with warnings.catch_warnings():
        # peft's own patterns for experts match nothing in some models.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(module, wanted, low_cpu_mem_usage=True)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)

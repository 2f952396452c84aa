"""A model's config.json as transformers' own class; code that lies beside it is never run, and nobody is asked.

Which class builds the model is what verl decides (``verl.utils.model.get_hf_auto_model_class``): the one with the
vision tower where there is one, else the causal language model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.sizing import architectures

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_QUANTISED = re.compile(r'"quantization_config"\s*:\s*\{')
_NOT_SIZES = ("auto_map", "quantization_config", "compression_config", "dtype", "torch_dtype", "attn_implementation")
"""Keys that change no count: whose code, how weights are stored, how attention is computed."""
_SIZES = {
    "hidden_size": ("n_embed", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "vocab_size": (),
}
"""What every file states, and older names that some classes read."""
_FURTHER = re.compile(
    r"hidden_size|intermediate_size|num_.*layers|heads|vocab_size|experts|rank|(rope|nope|v)_head_dim|dense"
)
MOST_LAYERS = 1000
REMEDY = "give a folder whose config.json is a causal language model's in transformers' own form (often the -hf copy)"


def read(name: str) -> tuple[str, str, bool]:
    """The text of a model's config.json, where it was read, and whether nobody has compared it with the hub's.

    A folder with a ``config.json`` is read; else the hub's cache on this machine; else `architectures`.

    Raises:
        ValueError: the model is found nowhere, or its file cannot be read.
    """
    file = _local(name)
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read ({error}): copy it again from the hub") from error
        stored = "; its weights are stored quantised and counted as if not" if _QUANTISED.search(text) else ""
        return text, f"{file}{stored}", False
    known = architectures.find(name)
    if known is None:
        names = sorted(name for entry in architectures.published().values() for name in entry.names)
        raise ValueError(
            f"the sizes of {name} are not known here: give a folder with its config.json as "
            f"actor_rollout_ref.model.path, or one of {', '.join(names)}"
        )
    return json.dumps(dict(known.config)), known.source, known.unverified


def parse(name: str, text: str) -> PretrainedConfig:
    """transformers' configuration of a config.json.

    Raises:
        ValueError: it is damaged, leaves sizes out, or is of a type that transformers does not know.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the config.json of {name} is no JSON ({error}): copy it again from the hub") from error
    if not isinstance(values, dict):
        raise ValueError(f"the config.json of {name} holds a {type(values).__name__} and no object: copy it again")
    kind, named = _class(values)
    if kind is None:
        from transformers import __version__

        its = f"{name} is of type {values.get('model_type')}, which transformers {__version__} does not know"
        code = "; the code that it names (auto_map) is not run" if "auto_map" in values else ""
        raise ValueError(f"{its}{code}: {REMEDY}")
    try:
        config = kind.from_dict(_sizes_alone(values))
        spoken = config.get_text_config(decoder=True)
        if "tie_word_embeddings" not in values and spoken is not config:
            # Some classes around a text configuration have a default of their own, which its weights contradict.
            config.tie_word_embeddings = spoken.tie_word_embeddings
    except Exception as error:  # each class checks its values in its own way
        raise unusable(name, error) from error
    if _mapping(kind) is None or config.is_encoder_decoder:
        raise ValueError(f"{name} is a {config.model_type}: only causal language models can be sized; {REMEDY}")
    missing = _unstated(kind, named, spoken, values)
    if missing:
        raise ValueError(
            f"the config.json of {name} does not state {', '.join(missing)}: transformers would take another model's; "
            f"copy the whole file from the hub"
        )
    if spoken.num_hidden_layers > MOST_LAYERS:
        raise ValueError(f"{name} has {spoken.num_hidden_layers} layers, more than {MOST_LAYERS}: mend its config.json")
    return config


def build(name: str, config: PretrainedConfig) -> PreTrainedModel:
    """The model on the meta device, without weights.

    Raises:
        ValueError: transformers cannot build it.
    """
    import torch

    try:
        with torch.device("meta"):
            return _mapping(type(config))[type(config)](config)
    except Exception as error:  # whatever a class raises on sizes that do not fit together, or without a library
        raise unusable(name, error) from error


def _mapping(kind: type[PretrainedConfig]) -> Any:
    """The table of transformers from which verl takes the model's class; None where it would find none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    both = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)
    return next((mapping for mapping in both if kind in mapping), None)


def _local(name: str) -> Path | None:
    """A config.json in a folder, or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    file = Path(name).expanduser() / "config.json"
    if file.is_file():
        return file
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path, and no name of the hub
        return None
    return Path(cached) if isinstance(cached, str) else None


def _class(values: dict[str, Any]) -> tuple[type[PretrainedConfig] | None, bool]:
    """By the type; else by the model's class, which Kimi-K2 has from DeepSeek-V3, and then `named` is true."""
    import transformers
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return CONFIG_MAPPING[kind], False
    names = values.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    found = getattr(transformers, name, None) if name.endswith(("ForCausalLM", "LMHeadModel")) else None
    return getattr(found, "config_class", None), True


def _sizes_alone(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _sizes_alone(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key.lstrip("_") not in _NOT_SIZES
    }


def _unstated(kind: type[PretrainedConfig], named: bool, text: PretrainedConfig, values: dict[str, Any]) -> list[str]:
    """Sizes that the file leaves to a default, or that are none.

    Of a nested text configuration transformers writes only what differs from the defaults, so that one size is enough.
    """
    nested = isinstance(values.get("text_config"), dict)
    kind, given = (type(text), values["text_config"]) if nested else (kind, values)

    def stated(key: str) -> list[Any]:
        names = (key, kind.attribute_map.get(key), *_SIZES.get(key, ()))
        return [given[name] for name in names if name in given]

    found = {key: getattr(text, key, None) for key in _SIZES}
    wrong = [key for key, size in found.items() if not isinstance(size, int) or size < 1]
    missing = [key for key, size in found.items() if size not in stated(key)]
    if named:
        further = (key for key, size in kind().to_dict().items() if isinstance(size, int) and _FURTHER.search(key))
        return list(dict.fromkeys([*missing, *(key for key in further if not stated(key))]))
    return wrong or ([] if nested and len(missing) < len(found) else missing)


def unusable(name: str, error: Exception) -> ValueError:
    """What is raised where transformers, or counting in what it built, comes upon something unforeseen."""
    from transformers import __version__

    words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ValueError(
        f"{name} cannot be sized with transformers {__version__} ({words}): mend what it says, or {REMEDY}"
    )

"""The smallest model that verl and vLLM run, and the run that left `tests/checkpoint/old`."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoint.runs import write_data
from tests.e2e import trainer


def build(folder: Path, seed: int = 0) -> Path:
    """One layer of width 32, with the demo's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from verl_ext.toy import models

    config = models.build_config("tiny_dense", True, len(models.build_tokenizer()))
    config.update({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1})
    config.update(
        {"intermediate_size": 32, "layer_types": ["full_attention"], "eos_token_id": 257, "pad_token_id": 256}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.save(AutoModelForCausalLM.from_config(config, dtype=torch.float32), folder)


def overrides(folder: Path, algo: str, steps: int, *more: str) -> list[str]:
    """A run on the model and data that `prepare` put into `folder`; it saves after its last step."""
    return [*trainer.overrides(folder / "model", folder / "data", steps, algo), f"trainer.save_freq={steps}", *more]


def prepare(folder: Path) -> Path:
    """Model and data; always the same."""
    build(folder / "model")
    write_data(folder / "data")
    return folder

"""Activations, logits and entropies: hand counts, and what autograd really keeps."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3MoeConfig

from tests.sizing.runs import fsdp, megatron
from verl_ext.sizing.activations import _entropy, layer, log_prob, update
from verl_ext.sizing.measuring import measure

DENSE = measure("Qwen/Qwen2.5-7B")
TOKENS, VOCABULARY = 16_384, 152_064


class Kept:
    """Bytes that autograd keeps while it is active, each storage once, parameters not."""

    def __init__(self, module: torch.nn.Module | None = None) -> None:
        self._known = {one.untyped_storage().data_ptr() for one in module.parameters()} if module else set()
        self._held: list[torch.Tensor] = []
        self.bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
            # A freed address would be taken for one that is known.
            self._held.append(tensor)
        return tensor

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


SIZES = {
    "vocab_size": 64, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_keeps_what_autograd_keeps(dtype: torch.dtype, tmp_path) -> None:
    config = Qwen2Config(intermediate_size=1024, **SIZES)
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tokens = 512
    with Kept(model) as kept:
        model.model(input_ids=torch.randint(0, 64, (1, tokens)))
    predicted = 2 * tokens * layer(measure(str(tmp_path)), dtype.itemsize)
    assert predicted == pytest.approx(kept.bytes, rel=0.2)


def test_a_layer_of_experts_keeps_what_autograd_keeps(tmp_path) -> None:
    config = Qwen3MoeConfig(
        intermediate_size=1024, moe_intermediate_size=256, num_experts=8, num_experts_per_tok=4, head_dim=32, **SIZES
    )
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tokens = 512
    with Kept(model) as kept:
        model.model(input_ids=torch.randint(0, 64, (1, tokens)))
    predicted = 2 * tokens * layer(measure(str(tmp_path)), 4)
    assert predicted == pytest.approx(kept.bytes, rel=0.25)


@pytest.mark.parametrize(("dtype", "bytes_an_entry"), [(torch.bfloat16, 8), (torch.float32, 4)])
def test_entropies_keep_what_autograd_keeps(dtype: torch.dtype, bytes_an_entry: int) -> None:
    from verl.utils.torch_functional import entropy_from_logits_with_chunking

    logits = torch.randn(64, 512, dtype=dtype, requires_grad=True)
    with Kept() as kept:
        entropy_from_logits_with_chunking(logits, chunk_size=16)
    # In float32 the logits themselves are kept, which are counted already.
    own = 0 if dtype == torch.bfloat16 else logits.nbytes
    assert kept.bytes - own == pytest.approx(64 * 512 * bytes_an_entry, rel=0.05)
    settings = fsdp(compute=dtype.itemsize, chunk=16)
    product = 16 * 512 * 4
    assert _entropy(settings, 64 * 512, 64, backward=True) == 64 * 512 * bytes_an_entry + product


def test_the_7b_model_by_hand() -> None:
    # A token in a layer: 8 h + 2 (2 h + 2 q + 2 k + 4 f)
    own = 8 * 3584 + 2 * (2 * 3584 + 2 * 3584 + 2 * 512 + 4 * 18_944)
    assert layer(DENSE, 2) == own == 210_944
    found = update(DENSE, fsdp())
    assert found.activations == TOKENS * (28 * 2 * 3584 + own)
    assert (found.logits, found.entropy) == (2 * TOKENS * VOCABULARY, 0)
    assert update(DENSE, fsdp(checkpointing=False)).activations == TOKENS * 28 * own


def test_logits_are_copied_by_a_temperature_and_by_entropies() -> None:
    one = 2 * TOKENS * VOCABULARY
    assert update(DENSE, fsdp(temperature_one=False)).logits == 2 * one
    assert update(DENSE, fsdp(entropy=True)).logits == 2 * one
    assert log_prob(DENSE, fsdp()).logits == one
    # Megatron: float32, a gradient, a copy for the entropy; a quarter of the vocabulary.
    wide = 4 * TOKENS * VOCABULARY / 4
    assert update(DENSE, megatron()).logits == 2 * wide
    assert update(DENSE, megatron(entropy=True)).logits == 3 * wide


def test_chunks_bound_what_entropies_need() -> None:
    at_once = 12 * TOKENS * VOCABULARY
    assert log_prob(DENSE, fsdp(chunking=False)).entropy == at_once
    assert log_prob(DENSE, fsdp()).entropy == at_once / 8
    assert log_prob(DENSE, fsdp(remove_padding=False)).entropy == at_once
    assert update(DENSE, fsdp(entropy=True, entropy_checkpointing=True)).entropy == at_once / 8
    assert log_prob(DENSE, fsdp(), entropy=False).entropy == 0


def test_fused_kernels_never_hold_all_logits() -> None:
    found = update(DENSE, fsdp(fused=True, entropy=True))
    assert (found.logits, found.entropy) == (512 * VOCABULARY * 12, 0)


def test_a_pipeline_keeps_the_inputs_of_its_micro_batches_in_flight() -> None:
    split = megatron(tensor=2, pipeline=4, update_limit=131_072, epochs=1)
    found = update(DENSE, split)
    last = split.update_tokens * (7 * 2 * 3584 + layer(DENSE, 2)) / 2 + found.logits
    assert found.total == pytest.approx(last)
    # With a small vocabulary the first stage is the fullest: four micro-batches instead of one.
    import dataclasses

    small = dataclasses.replace(DENSE, vocabulary=128)
    assert update(small, split).activations == split.update_tokens * (28 * 2 * 3584 + layer(DENSE, 2)) / 2


def test_tokens_of_a_micro_batch() -> None:
    assert fsdp().update_tokens == 16_384
    # A mini-batch of 8 prompts x 2 responses on 8 GPUs: two rows of at most 10,240 tokens.
    assert fsdp(mini_prompts=8, responses=2, update_limit=65_536).update_tokens == 20_480
    # Two GPUs a sequence: four rows for each pair, half of each row on a GPU.
    assert fsdp(mini_prompts=8, responses=2, update_limit=65_536, sequence=2).update_tokens == 20_480
    assert fsdp(dynamic=False, update_limit=4).update_tokens == 4 * 10_240
    assert fsdp(dynamic=False, update_limit=4, sequence=2).update_tokens == 2 * 10_240

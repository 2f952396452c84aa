"""The demo's tokenizer and models: what verl and vLLM ask of them, and that a few steps teach something."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl_ext.toy.models import build_config, build_model, build_tokenizer, build_untrained, save
from verl_ext.toy.pretrain import IGNORED, PretrainSettings, collate, pretrain

TOKENIZER = build_tokenizer()
KINDS = ["tiny_dense", "tiny_moe"]
VLLM_CPU_HEAD_SIZES = {32, 64, 80, 96, 112, 128}


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"])))
@example("\uf900")
def test_tokens_are_bytes_and_round_trip(text: str) -> None:
    # transformers' tokenizer of Qwen2 composes what Unicode can write in two ways, as U+F900, first.
    text = unicodedata.normalize("NFC", text)
    ids = TOKENIZER.encode(text)
    if "<|" not in text:
        assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_and_chat_template() -> None:
    assert TOKENIZER.encode("\n") == [10]
    assert TOKENIZER.encode("\n\n") == [10, 10]
    assert (len(TOKENIZER), TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (258, 256, 257)
    question = {"role": "user", "content": "1+2*3=?"}
    prompt = TOKENIZER.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    assert prompt == "1+2*3=?\n"
    answer = {"role": "assistant", "content": "7"}
    assert TOKENIZER.apply_chat_template([question, answer], tokenize=False) == "1+2*3=?\n7<|im_end|>"


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "4*2=8\n\n\\boxed{8}<|im_end|>"
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.chat_template == TOKENIZER.chat_template
    assert (loaded.pad_token_id, loaded.eos_token_id) == (256, 257)
    assert loaded.decode(loaded.encode(text), skip_special_tokens=True) == "4*2=8\n\n\\boxed{8}"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_untrained_model_reloads_with_equal_logits(kind: str, tied: bool, tmp_path: Path) -> None:
    folder = build_untrained(kind, tied, tmp_path, seed=3)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(20).reshape(2, 10)
    expected = build_model(kind, tied, seed=3)(input_ids=ids).logits  # type: ignore[arg-type]
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert shared == tied
    assert 2e5 < sum(weight.numel() for weight in model.parameters()) < 2e6
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.generation_config.eos_token_id == 257


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_fit_the_cpu_kernels_of_vllm(kind: str) -> None:
    config = build_config(kind, True, 258)  # type: ignore[arg-type]
    assert config.head_dim in VLLM_CPU_HEAD_SIZES
    # Code that knows no head_dim field must come to the same number.
    assert config.head_dim == config.hidden_size // config.num_attention_heads
    assert config.hidden_size % 32 == 0
    assert getattr(config, "moe_intermediate_size", 32) % 32 == 0


def test_weights_depend_on_the_seed_and_leave_the_global_state(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, same, other = (build_model("tiny_dense", True, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(torch.rand(3), expected)
    weights = [model.get_input_embeddings().weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_vocabulary_can_be_widened_but_not_cut(tmp_path: Path) -> None:
    folder = build_untrained("tiny_dense", True, tmp_path, seed=0, vocab_size=1000)
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == 1000
    with pytest.raises(ValueError, match="100 is smaller"):
        build_untrained("tiny_dense", True, tmp_path, seed=0, vocab_size=100)
    with pytest.raises(ValueError, match="tiny_dense, tiny_moe"):
        build_model("huge", True, 0)  # type: ignore[arg-type]


def test_labels_cover_response_and_end_only() -> None:
    ids, labels = collate([("1+1=?", "ab"), ("1=?", "c")], TOKENIZER)
    # "1+1=?\n" has 6 bytes, then a (97), b (98), end (257); the second row is 4 + 1 + 1 and padded to 9.
    assert labels[0].tolist() == [IGNORED] * 6 + [97, 98, 257]
    assert labels[1].tolist() == [IGNORED] * 4 + [99, 257] + [IGNORED] * 3
    assert ids[1].tolist() == [*b"1=?\n", 99, 257, 256, 256, 256]


@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_is_seeded_and_learns(kind: str, tmp_path: Path) -> None:
    short = PretrainSettings(steps=12, batch_size=4)
    runs = []
    for _ in range(2):
        model = build_model(kind, True, 0)  # type: ignore[arg-type]
        runs.append(pretrain(model, TOKENIZER, 0, short))
    assert runs[0] == runs[1]
    # Uniform guessing costs log 258 = 5.55 nats; the format alone is worth more than half of it.
    assert runs[0][0] > 4.5
    assert sum(runs[0][-3:]) / 3 < 3.0
    save(model, tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(dict(reloaded.named_parameters()), dict(model.named_parameters()))

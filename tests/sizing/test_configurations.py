"""config.json as people have it: read rightly or refused, without its own code and without a question."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sizing.published_models import CACHES, MODELS, folder, write
from tests.sizing.runs import fsdp
from verl_ext.sizing.cost import rollout_seconds
from verl_ext.sizing.gpus import device
from verl_ext.sizing.measuring import measure
from verl_ext.sizing.model import Cache
from verl_ext.sizing.rollout import engine, kept

GPT2, MISTRAL, DEEPSEEK = (MODELS[name][0] for name in ("gpt2", "Mistral-Small-3.1-24B", "DeepSeek-V3"))


@pytest.mark.parametrize("name", MODELS)
def test_published_totals(name: str, tmp_path: Path) -> None:
    assert measure(folder(name, tmp_path)).total == MODELS[name][1]


def test_deepseek_v3_by_hand(tmp_path: Path) -> None:
    hidden, heads, layers, vocabulary = 7168, 128, 61, 129_280
    attention = hidden * 1536 + 1536 * heads * 192 + hidden * (512 + 64) + 512 * heads * 256 + heads * 128 * hidden
    norms = 1536 + 512 + 2 * hidden
    expert = 3 * hidden * 2048
    total = layers * (attention + norms) + 3 * 3 * hidden * 18_432 + 58 * (257 * expert + 256 * hidden)
    model = measure(folder("DeepSeek-V3", tmp_path))
    assert model.total == total + 2 * vocabulary * hidden + hidden
    assert model.active == model.total - 58 * (256 - 8) * expert
    # Nine experts of 2048 are as wide as the dense part of the first layers.
    assert model.width == 18_432
    assert model.caches == (Cache(61, heads=1, width=512 + 64),)


def test_multi_head_latent_attention_keeps_576_values_on_every_gpu(tmp_path: Path) -> None:
    model = measure(folder("DeepSeek-V3", tmp_path))
    assert kept(model, fsdp(), 1) == 61 * 576 * 2 == 70_272
    assert kept(model, fsdp(rollout_tensor=8), 1000) == 1000 * 70_272


LONG = 32_768
COMPUTED = ("Kimi-K2", "Gemma-3-4b", "gpt-oss-20b", "Qwen3-Next-80B-A3B", "Llama-4-Scout")


def test_the_table_of_caches_in_the_docs(tmp_path: Path) -> None:
    """Bytes of a sequence's next token at 32,768, MiB of all of them, and what is published."""
    lines = []
    for name in (*CACHES, *COMPUTED):
        place = tmp_path / name
        place.mkdir()
        model = measure(folder(name, place))
        token = kept(model, fsdp(), LONG + 1) - kept(model, fsdp(), LONG)
        published, source = CACHES.get(name, (token, ""))
        assert token == published, name
        lines.append(f"| {name} | {token:,.0f} | {kept(model, fsdp(), LONG) / 2**20:,.1f} | {source} |")
    text = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text(encoding="utf-8")
    assert "\n".join(lines) in text, "\n".join(lines)


def test_a_window_keeps_no_more_than_its_tokens(tmp_path: Path) -> None:
    # 5 of 34 layers keep all, 4 heads of 256 for keys and for values.
    token = 2 * 4 * 256 * 2
    model = measure(folder("Gemma-3-4b", tmp_path))
    assert kept(model, fsdp(), 1024) == 34 * 1024 * token
    assert kept(model, fsdp(), 32_768) == (5 * 32_768 + 29 * 1024) * token


def test_linear_attention_keeps_states_of_one_size(tmp_path: Path) -> None:
    model = measure(folder("Qwen3-Next-80B-A3B", tmp_path))
    # 32 heads of 128 x 128; a convolution over 2 x 16 x 128 + 32 x 128 channels that looks back at 3 inputs.
    state = 32 * 128 * 128 + (2 * 16 * 128 + 32 * 128) * 3
    assert kept(model, fsdp(), 0) == 2 * 36 * state * 2
    assert kept(model, fsdp(), 1000) - kept(model, fsdp(), 0) == 1000 * 12 * 2 * 2 * 256 * 2
    assert kept(model, fsdp(rollout_tensor=2), 0) == 36 * state * 2


SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
WINDOW = 8
OLD = {"vocab_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4}
FOUR = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 16,
}  # fmt: skip
GENERATING: dict[str, dict[str, Any]] = {
    "qwen2": SMALL,
    "llama": {**SMALL, "num_key_value_heads": None, "head_dim": None},
    "mistral": {**SMALL, "sliding_window": WINDOW},
    "phi3": {**SMALL, "sliding_window": WINDOW},
    "starcoder2": {**SMALL, "sliding_window": WINDOW},
    "gemma2": {**SMALL, "sliding_window": WINDOW},
    "gemma3_text": {**SMALL, "sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    "cohere2": {**SMALL, "sliding_window": WINDOW},
    "olmo3": {**SMALL, "sliding_window": WINDOW},
    "gpt_oss": {**SMALL, "sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {**SMALL, "num_local_experts": 4, "sliding_window": None},
    "qwen3_next": {**SMALL, **EXPERTS, **LINEAR, "num_experts": 4, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": {**SMALL, **LINEAR},
    "lfm2": {**SMALL, "layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
    "gpt2": OLD,
    "gpt_bigcode": {**OLD, "multi_query": True},
    "gptj": {**OLD, "rotary_dim": 8},
    "gpt_neox": FOUR,
    "bloom": {"vocab_size": 96, "hidden_size": 64, "n_layer": 3, "n_head": 4},
    "falcon": {**FOUR, "multi_query": True},
    "opt": {**FOUR, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "phi": SMALL,
}


@pytest.mark.parametrize("kind", GENERATING)
def test_the_cache_is_what_transformers_keeps(kind: str, tmp_path: Path) -> None:
    """After 23 tokens; of a window transformers keeps one token less, of a convolution one input more."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](**GENERATING[kind])
    module = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        answer = module.generate(
            ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, return_dict_in_generate=True, pad_token_id=0
        )
    held = 0
    for one in answer.past_key_values.layers:
        for name, tensor in vars(one).items():
            if torch.is_tensor(tensor) and name in ("keys", "values", "conv_states", "recurrent_states"):
                length = tensor.shape[-2]
                whole = tensor.numel() + (tensor.numel() // length if length == WINDOW - 1 else 0)
                held += tensor[..., 1:].numel() if name == "conv_states" else whole
    config.save_pretrained(tmp_path)
    model = measure(str(tmp_path))
    states = sum(one.layers * (one.state + one.recurrent) for one in model.caches)
    # vLLM has two states of a linear layer, transformers one.
    assert kept(model, fsdp(rollout_bytes=1), 23) - states == held
    assert model.total == sum(one.numel() for one in module.parameters())


def changed(values: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Without the keys that are given as `...`."""
    return {key: value for key, value in {**values, **keys}.items() if value is not ...}


REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": ("not json", "is no JSON"),
    "cut off": (json.dumps(GPT2)[:40], "is no JSON"),
    "empty": ("", "is no JSON"),
    "too deep": ("[" * 100_000, "is no JSON"),
    "a list": ([GPT2], "holds a list"),
    "a number": (3, "holds a int"),
    "nothing in it": ({}, "type None"),
    "no type": (changed(GPT2, model_type=...), "type None"),
    "a type that is no text": (changed(GPT2, model_type=["gpt2"]), "does not know"),
    "an unknown type": ({"model_type": "chatglm", "auto_map": {"AutoConfig": "c.C"}, **SMALL}, "auto_map.* is not run"),
    "unknown around a known one": (
        {"model_type": "internvl_chat", "llm_config": {**SMALL, "model_type": "qwen2"}, "auto_map": {}},
        "internvl_chat, which transformers .* does not know",
    ),
    "a known class with sizes left out": (
        {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168},
        "does not state num_hidden_layers, num_attention_heads, vocab_size.*kv_lora_rank",
    ),
    "sizes left out": ({"model_type": "llama"}, "does not state hidden_size, num_hidden_layers"),
    "the old name of a size left out": (changed(MODELS["mpt-7b"][0], d_model=...), "does not state hidden_size"),
    "one size left out": (changed(GPT2, n_layer=...), "does not state num_hidden_layers"),
    "sizes of the text left out": ({"model_type": "gemma3", "text_config": {}}, "does not state"),
    "a null size": ({"model_type": "llama", **SMALL, "hidden_size": None}, "hidden_size"),
    "a size in words": ({"model_type": "llama", **SMALL, "hidden_size": "64"}, "hidden_size"),
    "no layers": ({"model_type": "llama", **SMALL, "num_hidden_layers": 0}, "num_hidden_layers"),
    "a negative size": ({"model_type": "llama", **SMALL, "vocab_size": -1}, "vocab_size"),
    "a million layers": ({"model_type": "llama", **SMALL, "num_hidden_layers": 10**6}, "1000000 layers"),
    "experts of unknown number": (changed(DEEPSEEK, num_experts_per_tok=None), "0 to a token|cannot be sized"),
    "heads that do not divide": (changed(GPT2, n_head=7), r"cannot be sized.*\(ValueError: .*divisible"),
    "an encoder with a decoder": ({"model_type": "t5"}, "only causal language models"),
    "an encoder": ({"model_type": "vit", **SMALL}, "only causal language models"),
    "speech besides": ({"model_type": "qwen2_5_omni", "thinker_config": {}}, "only causal language models"),
    "no layer with a cache": (
        {"model_type": "lfm2", **SMALL, "layer_types": ["conv"] * 4, "conv_L_cache": 3}, "no layer .* attends"
    ),
    "layers that are not the text's": ({"model_type": "idefics"}, "layer 0 .* caches is not known|does not state"),
    "Mamba": ({"model_type": "jamba", **SMALL}, "layer 0 .* caches is not known"),
    "attention with an index": (
        {
            "model_type": "glm_moe_dsa", **SMALL, **EXPERTS, "kv_lora_rank": 16, "q_lora_rank": 16,
            "n_routed_experts": 4, "first_k_dense_replace": 1,
        },
        "layer 0 .* caches is not known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sized_is_refused_with_a_remedy(case: str, tmp_path: Path) -> None:
    values, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as caught:
        measure(write(values, tmp_path))
    assert "transformers would" in str(caught.value) or any(
        remedy in str(caught.value) for remedy in ("give a folder", "copy it again", "mend its")
    )


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="cannot be read"):
        measure(str(tmp_path))


@pytest.mark.parametrize("name", ["gpt3-of-nobody", "nobody/nothing", "a--b/c", "../nowhere", ""])
def test_a_name_that_leads_nowhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ValueError, match="are not known here: give a folder"):
        measure(name)


def test_how_weights_are_stored_changes_no_count_and_is_said(tmp_path: Path) -> None:
    model = measure(folder("DeepSeek-V3", tmp_path))
    assert "stored quantised" in model.source
    plain = tmp_path / "plain"
    plain.mkdir()
    unquantised = measure(write(changed(DEEPSEEK, quantization_config=None), plain))
    assert unquantised.total == model.total
    assert "quantised" not in unquantised.source


def test_an_output_layer_is_shared_if_the_text_configuration_says_so(tmp_path: Path) -> None:
    shared = {**MISTRAL, "text_config": {**MISTRAL["text_config"], "tie_word_embeddings": True}}
    assert measure(write(shared, tmp_path)).total == 24_011_361_280 - 131_072 * 5120


@pytest.mark.parametrize(("kind", "answer"), [("kimi_k2", "y\n"), ("of_nobody", None)])
def test_the_command_runs_no_code_and_asks_nothing(kind: str, answer: str | None, tmp_path: Path) -> None:
    """Where "y" would be answered, and where nothing can be read."""
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass DeepseekV3Config: pass\nclass DeepseekV3ForCausalLM: pass\n"
    for module in ("configuration_deepseek", "modeling_deepseek"):
        (tmp_path / f"{module}.py").write_text(code)
    path = write({**MODELS["Kimi-K2"][0], "model_type": kind}, tmp_path)
    run = [
        sys.executable,
        "-c",
        "from verl_ext.cli import app; app()",
        "doctor",
        "plan",
        "model=qwen2_5_7b",
        "algo=espo",
    ]
    run += ["experiment=espo", "backend=fsdp", "cluster=1x8", f"actor_rollout_ref.model.path={path}"]
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if answer is None else {"input": answer}
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False, **given)
    # A trillion parameters do not fit on eight GPUs.
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1,026,408,209,408 parameters" in done.stdout
    assert "does not fit" in done.stdout
    assert not any(sign in done.stdout + done.stderr for sign in ("[y/N]", "Traceback"))
    assert not (tmp_path / "ran").exists()


def test_tokens_attended_to_within_a_window() -> None:
    """Twice the mean of what each of 1,000 tokens sees; itself counts half, as in causal attention's half square."""
    for window in (None, 100, 5000):
        seen = [min(position + 0.5, window or 1000) for position in range(1000)]
        assert Cache(1, heads=1, width=2, window=window).attended(1000) == pytest.approx(2 * sum(seen) / 1000, rel=1e-3)
    assert Cache(1, state=8).attended(1000) == 0


def test_what_a_sequence_keeps_decides_how_many_run_together(tmp_path: Path) -> None:
    model = measure(folder("Gemma-3-4b", tmp_path))
    whole = replace(model, caches=tuple(replace(one, window=None) for one in model.caches))
    settings, h100 = fsdp(running=1000), device("h100-80gb")
    windows, without = (engine(one, settings, 60 * 2**30) for one in (model, whole))
    # 5 layers of 10,240 tokens and 29 of 1,024 against 34 of 10,240.
    assert windows.together / without.together == pytest.approx(34 * 10_240 / (5 * 10_240 + 29 * 1024))
    quick, slow = (rollout_seconds(one, settings, found, h100) for one, found in ((model, windows), (whole, without)))
    assert quick < slow

"""Parameters: the published totals, hand counts, built models, and adapters as peft makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from verl_ext.config_groups import config_dir
from verl_ext.sizing.architectures import find, published
from verl_ext.sizing.measuring import measure
from verl_ext.toy.models import build_model, build_untrained


def test_qwen2_5_7b_by_hand() -> None:
    hidden, inner, layers, vocabulary, key_value = 3584, 18_944, 28, 152_064, 512
    attention = hidden * (hidden + 2 * key_value) + (hidden + 2 * key_value) + hidden * hidden  # biases of q, k, v
    layer = attention + 3 * hidden * inner + 2 * hidden
    assert layer == 233_057_792
    model = measure("Qwen/Qwen2.5-7B")
    assert model.total == 28 * 233_057_792 + 2 * vocabulary * hidden + hidden == 7_615_616_512
    assert (model.largest_layer, model.embedding, model.head) == (layer, vocabulary * hidden, vocabulary * hidden)
    # Vectors: biases and two norms of each layer, and the last norm.
    assert model.replicated == layers * (hidden + 2 * key_value + 2 * hidden) + hidden
    assert model.matrices == model.total - model.replicated - vocabulary * hidden
    assert (model.active, model.expert) == (model.total, 0)


def test_qwen3_30b_a3b_by_hand() -> None:
    hidden, inner, layers, vocabulary = 2048, 768, 48, 151_936
    expert = 3 * hidden * inner
    attention = 2 * hidden * 4096 + 2 * hidden * 512 + 2 * 128  # q, o; k, v; norms of queries and keys
    layer = attention + 128 * hidden + 128 * expert + 2 * hidden
    model = measure("Qwen/Qwen3-30B-A3B-Base")
    assert model.total == layers * layer + 2 * vocabulary * hidden + hidden == 30_532_122_624
    assert model.expert == layers * 128 * expert
    assert model.active == model.total - layers * 120 * expert == 3_353_032_704
    assert (model.width, model.experts, model.experts_per_token) == (8 * inner, 128, 8)
    assert model.replicated == layers * (2 * 128 + 2 * hidden + 128 * hidden) + hidden


@pytest.mark.parametrize(
    ("name", "total"),
    [
        # As published with the weights.
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-3B", 3_085_938_688),
        ("Qwen/Qwen2.5-Math-7B", 7_615_616_512),
        ("Qwen/Qwen3-4B-Base", 4_022_468_096),
        ("Qwen/Qwen3-14B", 14_768_307_200),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 8_030_261_248),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
    ],
)
def test_published_totals(name: str, total: int) -> None:
    assert measure(name).total == total


def test_a_shared_embedding_is_multiplied_with_once() -> None:
    model = measure("Qwen/Qwen2.5-1.5B")
    # All but biases (1536 + 2 x 256) and two norms of 28 layers, and the last norm.
    assert model.matrices == 1_543_714_304 - (28 * (2048 + 2 * 1536) + 1536)


def test_every_file_says_what_is_counted_in_it() -> None:
    for entry in published().values():
        model = measure(entry.names[0])
        assert (entry.parameters, entry.active_parameters) == (model.total, model.active), entry.key


def test_every_model_that_can_be_chosen_has_sizes() -> None:
    for file in sorted((config_dir() / "model").glob("*.yaml")):
        path = yaml.safe_load(file.read_text())["actor_rollout_ref"]["model"]["path"]
        found = find(path)
        assert found is not None, file
        assert found.key == file.stem


@pytest.mark.parametrize("kind", ["tiny_dense", "tiny_moe"])
@pytest.mark.parametrize("tied", [True, False])
def test_built_models(kind: str, tied: bool, tmp_path: Path) -> None:
    built = build_model(kind, tied, seed=0)  # type: ignore[arg-type]
    folder = build_untrained(kind, tied, tmp_path / "model", seed=0)  # type: ignore[arg-type]
    model = measure(str(folder))
    assert model.total == sum(one.numel() for one in built.parameters())
    assert (model.head == 0) == tied
    assert model.source == str(folder / "config.json")
    if tied:
        known = published()[kind]
        assert (known.parameters, known.active_parameters) == (model.total, model.active)


@pytest.mark.parametrize("kind", ["tiny_dense", "tiny_moe"])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), r".*\.o_proj"])
def test_adapters_are_those_of_peft(kind: str, targets: str | tuple[str, ...]) -> None:
    import peft

    chosen = list(targets) if isinstance(targets, tuple) else targets
    built = build_model(kind, True, seed=0)  # type: ignore[arg-type]
    adapted = peft.get_peft_model(built, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=chosen))
    trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert measure(kind).adapters(4, targets) == trained > 0
    assert measure(kind).adapters(0, targets) == 0


def test_excluded_matrices_are_left_alone() -> None:
    model = measure("tiny_dense")
    # Two layers, an output matrix of 128 x 128 each.
    assert model.adapters(1, "all-linear") - model.adapters(1, "all-linear", ("o_proj",)) == 2 * (128 + 128)


def test_an_unknown_model_is_told_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"someone/else.*folder with its config\.json.*Qwen/Qwen3-14B"):
        measure("someone/else")


def test_other_kinds_of_models_are_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="only causal language models"):
        measure(str(tmp_path))

"""Types, numbers and adapters of the weights of a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.export import made
from verl_ext.export import weights


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def test_describe_counts_what_is_stored(folder: Path) -> None:
    told = weights.describe(folder)
    # tied: the embedding once. Qwen2 with V = 258, d = 128, 4 heads and 2 key-value heads of 32, 256 inner, 2 layers:
    # layer: q 128*128 + 128, k and v 2 * (64*128 + 64), o 128*128, mlp 3 * 128*256, norms 2 * 128
    layer = 128 * 128 + 128 + 2 * (64 * 128 + 64) + 128 * 128 + 3 * 128 * 256 + 2 * 128
    assert told["parameters"] == 258 * 128 + 2 * layer + 128 == 329_088
    assert told["dtypes"] == ["float32"]
    file = folder / "model.safetensors"
    assert told["sha256"] == {"model.safetensors": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert told["bytes"] == file.stat().st_size


def test_cast_rounds_every_weight_and_the_index_says_the_size(folder: Path) -> None:
    import torch

    before = made.state(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 4 * 329_088}, "weight_map": {}}))
    weights.cast(folder, "bfloat16")
    weights.state_dtype(folder)
    assert json.loads(index.read_text())["metadata"]["total_size"] == 2 * 329_088
    index.unlink()
    after = made.state(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    for name, one in after.items():
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, before[name].bfloat16())


def test_numbers_that_are_no_weights_keep_their_type(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    save_file({"w": torch.ones(2), "position": torch.arange(300)}, tmp_path / "model.safetensors")
    weights.cast(tmp_path, "bfloat16")
    found = load_file(tmp_path / "model.safetensors")
    assert found["w"].dtype == torch.bfloat16
    assert torch.equal(found["position"], torch.arange(300))


def test_an_adapter_is_merged_into_the_weights(model: Path, folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"])
    )
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(folder / "lora_adapter")
    a, b = (
        tuned.get_parameter(f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.default.weight").detach()
        for side in "AB"
    )
    before = made.state(model)
    weights.merge_adapter(folder)
    after = made.state(folder)
    name, other = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    # W + (alpha / r) B A, in float32
    torch.testing.assert_close(after[name], before[name] + 2.0 * b @ a)
    assert (after[name] - before[name]).abs().max() > 0.02
    assert torch.equal(after[other], before[other])
    assert not (folder / "lora_adapter").exists()

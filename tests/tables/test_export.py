"""Export: the weights that are evaluated are the weights that were trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from verl_ext.tables.export import export, merge_adapter
from verl_ext.tables.work import StageError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from verl_ext.demo.models import build_untrained

    return build_untrained("tiny_dense", True, tmp_path_factory.mktemp("model"), seed=3)


def weights(folder: Path) -> dict:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_whole_weights_are_taken_as_they_are(model: Path, tmp_path: Path) -> None:
    import torch

    checkpoint, target = tmp_path / "actor", tmp_path / "model" / "step_2"
    shutil.copytree(model, checkpoint / "huggingface")
    config = checkpoint / "huggingface" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))  # as verl writes it
    assert export(checkpoint, target, "fsdp", tmp_path / "log") == target
    before, after = weights(model), weights(target)
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].dtype == torch.float32
        assert torch.equal(before[name], after[name])
    assert json.loads(config.read_text())["dtype"] == "bfloat16"  # the checkpoint itself is as it was


def test_a_finished_export_is_kept_and_a_half_one_is_not(model: Path, tmp_path: Path) -> None:
    checkpoint, target = tmp_path / "actor", tmp_path / "model" / "step_2"
    shutil.copytree(model, checkpoint / "huggingface")
    half = tmp_path / "model" / ".step_2.part"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_text("half")
    export(checkpoint, target, "fsdp", tmp_path / "log")
    assert weights(target)
    shutil.rmtree(checkpoint)
    assert export(checkpoint, target, "fsdp", tmp_path / "log") == target
    with pytest.raises(StageError, match="there is no checkpoint"):
        export(checkpoint, tmp_path / "model" / "step_4", "fsdp", tmp_path / "log")


def test_an_adapter_is_merged_into_the_weights(model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "merged"
    shutil.copytree(model, folder)
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
    before = weights(model)
    merge_adapter(folder)
    after = weights(folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    # W + (alpha / r) B A, in bfloat16: 8 bits of mantissa
    torch.testing.assert_close(after[name].float(), before[name] + 2.0 * b @ a, rtol=2e-2, atol=2e-3)
    assert (after[name].float() - before[name]).abs().max() > 0.02
    other = "model.layers.0.self_attn.k_proj.weight"
    torch.testing.assert_close(after[other].float(), before[other], rtol=1e-2, atol=1e-4)
    assert not (folder / "lora_adapter").exists()


@pytest.mark.slow
def test_shards_are_merged_by_verl(model: Path, tmp_path: Path) -> None:
    import torch

    checkpoint, target = tmp_path / "actor", tmp_path / "model" / "step_2"
    shutil.copytree(model, checkpoint / "huggingface")
    for file in (checkpoint / "huggingface").glob("*.safetensors"):
        file.unlink()
    torch.save(weights(model), checkpoint / "model_world_size_1_rank_0.pt")
    (checkpoint / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    export(checkpoint, target, "fsdp", tmp_path / "logs" / "export.log")
    before, after = weights(model), weights(target)
    for name in before:
        assert torch.equal(before[name].bfloat16(), after[name].bfloat16())


@pytest.mark.slow
def test_a_failed_merge_says_why(model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "actor"
    checkpoint.mkdir()
    with pytest.raises(StageError, match="model merger failed") as caught:
        export(checkpoint, tmp_path / "model" / "step_2", "fsdp", tmp_path / "logs" / "export.log")
    assert caught.value.details
    assert not (tmp_path / "model" / "step_2").exists()

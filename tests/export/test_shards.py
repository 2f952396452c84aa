"""Shards put together by verl's merger without its rounding: one rank, and two written by verl's own manager."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from tests.export import made, ranks
from verl_ext.export.finding import Checkpoint
from verl_ext.export.writing import write


def test_the_shards_keep_their_type_and_every_bit(model: Path, tmp_path: Path) -> None:
    import torch

    from verl_ext.bridge import merging

    folder = made.one_rank(tmp_path / "actor", model)
    merging.merge(folder, tmp_path / "kept")
    merging.merge(folder, tmp_path / "rounded", "bfloat16")
    before = made.state(model)
    kept, rounded = (load(tmp_path / name) for name in ("kept", "rounded"))
    assert kept.keys() == rounded.keys() == before.keys() - {"lm_head.weight"}  # tied: once
    for name, one in kept.items():
        assert torch.equal(one, before[name])
        assert torch.equal(rounded[name], before[name].bfloat16())


def load(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def shards(folder: Path, model: Path, *states: dict) -> Path:
    """An actor's folder with these states, one a rank."""
    import torch

    made.one_rank(folder, model)
    (folder / "fsdp_config.json").write_text(json.dumps({"world_size": len(states)}))
    for rank, state in enumerate(states):
        torch.save(state, folder / f"model_world_size_{len(states)}_rank_{rank}.pt")
    return folder


def test_shards_that_cannot_belong_together(model: Path, tmp_path: Path) -> None:
    import torch

    from verl_ext.bridge.merging import Merger, ModelMergerConfig

    def merge(*states: dict) -> None:
        folder = shards(tmp_path / str(len(list(tmp_path.iterdir()))), model, *states)
        settings = str(folder / "huggingface")
        config = ModelMergerConfig("merge", "fsdp", local_dir=str(folder), hf_model_config_path=settings)
        Merger(config, None)._load_and_merge_state_dicts(len(states), len(states), (len(states),), ("fsdp",))

    one = {"a": torch.ones(2), "b": torch.ones(3)}
    with pytest.raises(ValueError, match="the shards of ranks 1 hold other parameters"):
        merge(one, {"a": torch.ones(2)})
    with pytest.raises(ValueError, match="'b' differs between rank 0 and rank 1"):
        merge(one, {**one, "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="holds a LoRA adapter only"):
        merge({"q_proj.lora_A.default.weight": torch.ones(2)})


def test_what_we_replace_in_verls_merger_is_still_there() -> None:
    from verl.model_merger import fsdp_model_merger as upstream

    ours = inspect.signature(upstream.FSDPModelMerger._load_and_merge_state_dicts)
    assert list(ours.parameters) == ["self", "world_size", "total_shards", "mesh_shape", "mesh_dim_names"]
    assert "_load_and_merge_state_dicts(" in inspect.getsource(upstream.FSDPModelMerger.merge_and_save)
    # The rounding which is the reason for ours; without it verl's own would do.
    assert ".bfloat16()" in inspect.getsource(upstream.FSDPModelMerger._load_and_merge_state_dicts)
    assert list(inspect.signature(upstream.FSDPModelMerger._merge_by_placement).parameters) == [
        "self",
        "tensors",
        "placement",
    ]
    assert list(inspect.signature(upstream.merge_non_dtensor_shards).parameters) == ["key", "shards"]


@pytest.mark.slow
def test_two_ranks_of_fsdp2_give_the_logits_of_the_model_that_was_saved(model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    actor = tmp_path / "global_step_2" / "actor"
    ranks.save(model, actor)
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ranks.perturb(whole)
    record = write(Checkpoint(actor, "fsdp", 2), tmp_path / "out", "keep", tmp_path / "log")
    assert record["weights"] == "put together from the shards of 2 ranks"
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("3+4*2-5=?\n", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(exported(**tokens).logits, whole(**tokens).logits)
        before = AutoModelForCausalLM.from_pretrained(model, dtype="auto")(**tokens).logits
        assert not torch.allclose(before, whole(**tokens).logits, atol=0.1)
    # Rounded, as verl's own merger does, the logits are others: that the type is kept matters.
    write(Checkpoint(actor, "fsdp", 2), tmp_path / "rounded", "bfloat16", tmp_path / "log")
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "rounded", dtype=torch.float32)
    with torch.no_grad():
        assert (rounded(**tokens).logits - whole(**tokens).logits).abs().max() > 1e-3

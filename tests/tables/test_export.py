"""The stage `export`; what it is made of is tested in tests/export/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.export import made
from verl_ext.tables.export import export
from verl_ext.tables.work import StageError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from verl_ext.toy.models import build_untrained

    return build_untrained("tiny_dense", True, tmp_path_factory.mktemp("model"), seed=3)


def test_whole_weights_are_taken_as_they_are(model: Path, tmp_path: Path) -> None:
    import torch

    checkpoint, target = made.whole(tmp_path / "actor", model), tmp_path / "model" / "step_2"
    assert export(checkpoint, target, "fsdp", tmp_path / "log") == target
    before, after = made.state(model), made.state(target)
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].dtype == torch.float32
        assert torch.equal(before[name], after[name])
    config = checkpoint / "huggingface" / "config.json"
    assert json.loads(config.read_text())["dtype"] == "bfloat16"  # the checkpoint itself is as it was


def test_a_finished_export_is_kept_and_a_half_one_is_not(model: Path, tmp_path: Path) -> None:
    checkpoint, target = made.whole(tmp_path / "actor", model), tmp_path / "model" / "step_2"
    half = tmp_path / "model" / ".step_2.part"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_text("half")
    export(checkpoint, target, "fsdp", tmp_path / "log")
    assert made.state(target)
    shutil.rmtree(checkpoint)
    assert export(checkpoint, target, "fsdp", tmp_path / "log") == target
    with pytest.raises(StageError, match="there is no checkpoint"):
        export(checkpoint, tmp_path / "model" / "step_4", "fsdp", tmp_path / "log")


def test_a_checkpoint_that_is_not_whole_says_why(tmp_path: Path) -> None:
    checkpoint = tmp_path / "actor"
    checkpoint.mkdir()
    with pytest.raises(StageError, match="cannot be exported") as caught:
        export(checkpoint, tmp_path / "model" / "step_2", "fsdp", tmp_path / "logs" / "export.log")
    assert "there are no shards" in caught.value.details[0]
    assert not (tmp_path / "model" / "step_2").exists()


@pytest.mark.slow
def test_shards_are_merged_and_rounded(model: Path, tmp_path: Path) -> None:
    import torch

    checkpoint, target = made.one_rank(tmp_path / "actor", model), tmp_path / "model" / "step_2"
    export(checkpoint, target, "fsdp", tmp_path / "logs" / "export.log")
    before, after = made.state(model), made.state(target)
    for name in before:
        assert after[name].dtype == torch.bfloat16
        assert torch.equal(before[name].bfloat16(), after[name])


@pytest.mark.slow
def test_a_failed_merge_says_why(model: Path, tmp_path: Path) -> None:
    checkpoint = made.one_rank(tmp_path / "actor", model)
    shutil.copy(made.fsdp(tmp_path / "made", 1) / "model_world_size_1_rank_0.pt", checkpoint)  # holds no tensors
    with pytest.raises(StageError) as caught:
        export(checkpoint, tmp_path / "model" / "step_2", "fsdp", tmp_path / "logs" / "export.log")
    assert "putting the shards together failed" in caught.value.details[0]
    assert len(caught.value.details) > 1

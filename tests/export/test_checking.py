"""A damaged checkpoint is told before it is loaded, with all that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.export import made
from verl_ext.export.checking import faults
from verl_ext.export.finding import Checkpoint
from verl_ext.run.checkpoint import layout
from verl_ext.run.checkpoint.manifest import Entry, Manifest


def check(folder: Path, backend: str = "fsdp") -> str:
    return "\n".join(faults(Checkpoint(folder, backend, None)))


@pytest.fixture
def actor(tmp_path: Path) -> Path:
    return made.fsdp(tmp_path / "global_step_2" / "actor", ranks=3)


def test_a_whole_one_has_no_fault(actor: Path, tmp_path: Path) -> None:
    assert check(actor) == ""
    assert check(made.megatron(tmp_path / "megatron"), "megatron") == ""


def test_ranks_that_are_missing(actor: Path) -> None:
    (actor / "model_world_size_3_rank_0.pt").unlink()
    (actor / "model_world_size_3_rank_2.pt").unlink()
    (actor / "model_world_size_4_rank_1.pt").write_text("of another run")
    told = check(actor)
    assert "of 3 ranks the shards of 0, 2 are missing; there are shards of 4 ranks; each node keeps" in told


def test_a_shard_that_was_cut_off(actor: Path) -> None:
    shard = actor / "model_world_size_3_rank_1.pt"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    (actor / "model_world_size_3_rank_2.pt").write_bytes(b"")
    told = check(actor).splitlines()
    assert len(told) == 2
    assert f"{shard} is cut off or damaged ({len(content) // 2} bytes)" in told[0]
    assert "rank_2.pt is cut off or damaged (0 bytes)" in told[1]


@pytest.mark.parametrize("content", [None, "{", '{"FSDP_version": 2}', "[]"])
def test_no_number_of_ranks(actor: Path, content: str | None) -> None:
    config = actor / "fsdp_config.json"
    config.unlink() if content is None else config.write_text(content)
    assert "fsdp_config.json is missing or has no world_size, of 3 shards" in check(actor)


def test_everything_is_told_at_once(actor: Path) -> None:
    (actor / "model_world_size_3_rank_2.pt").unlink()
    (actor / "huggingface/config.json").write_text("{")
    (actor / "huggingface/tokenizer_config.json").unlink()
    told = check(actor).splitlines()
    assert [part in line for part, line in zip(("ranks", "config.json", "no tokenizer"), told, strict=True)] == [
        True
    ] * 3


def test_whole_weights_in_several_files(actor: Path) -> None:
    whole = actor / "huggingface"
    (whole / "model-1.safetensors").write_text("x")
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert "names weights that are not there: model-2.safetensors" in check(actor)
    (whole / "model-2.safetensors").write_text("x")
    (actor / "fsdp_config.json").unlink()  # whole weights need no shards
    assert check(actor) == ""


def test_the_mark_and_the_list_of_our_own_checkpoints(actor: Path) -> None:
    step = actor.parent
    names = list(layout.files(step))
    entries = tuple(Entry(name, (step / name).stat().st_size) for name in names)
    optimizer = Entry("actor/optim_world_size_3_rank_0.pt", 7)  # is not there, and nobody needs it
    Manifest(2, {"actor": 3}, (*entries, optimizer, Entry("data.pt", 5)), {}).write(step)
    assert check(actor) == ""
    with (actor / "model_world_size_3_rank_1.pt").open("ab") as shard:
        shard.write(b"more")
    size = dict(zip(names, entries, strict=True))["actor/model_world_size_3_rank_1.pt"].size
    assert f"model_world_size_3_rank_1.pt: has {size + 4} bytes instead of {size}" in check(actor)
    (step / layout.UNFINISHED).touch()
    assert check(actor).startswith(f"{step} is marked as unfinished")


def test_megatron(tmp_path: Path) -> None:
    folder = made.megatron(tmp_path / "actor")
    (folder / "model/dist_ckpt/__1_0.distcp").write_text("")
    (folder / "model/dist_ckpt/.metadata").unlink()
    told = check(folder, "megatron")
    assert "empty shards: __1_0.distcp" in told
    assert "not all ranks had finished" in told
    (folder / "ckpt_contents.json").unlink()
    assert "ckpt_contents.json, which verl writes last, is missing" in check(folder, "megatron")


def test_megatron_that_verls_merger_cannot_put_together(tmp_path: Path) -> None:
    assert "is of a LoRA run" in check(made.megatron(tmp_path / "lora", peft=True), "megatron")
    made.settings(tmp_path / "old/huggingface")
    (tmp_path / "old/dist_ckpt").mkdir()
    assert "migrate_megatron_checkpoint_layout.py" in check(tmp_path / "old", "megatron")

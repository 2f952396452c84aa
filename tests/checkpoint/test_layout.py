"""Folders and the tracker file."""

from __future__ import annotations

from pathlib import Path

import pytest
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path, get_checkpoint_tracker_filename

from verl_ext.run.checkpoint import layout


def test_the_tracker_is_verls() -> None:
    assert get_checkpoint_tracker_filename("/c") == f"/c/{layout.TRACKER}"


def test_a_tracker_of_ours_is_read_by_verl(tmp_path: Path) -> None:
    (tmp_path / "global_step_12").mkdir()
    layout.write_atomically(tmp_path / layout.TRACKER, "12")
    assert find_latest_ckpt_path(str(tmp_path)) == str(tmp_path / "global_step_12")
    assert layout.tracked(tmp_path) == 12


@pytest.mark.parametrize("text", ["", "  ", "twelve", "\x00\x00"])
def test_a_tracker_without_a_step_is_named_with_what_it_holds(tmp_path: Path, text: str) -> None:
    (tmp_path / layout.TRACKER).write_text(text)
    with pytest.raises(ValueError, match=r"latest_checkpointed_iteration\.txt holds .* instead of a step"):
        layout.tracked(tmp_path)


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for name in ("global_step_9", "global_step_10", "global_step_100", "global_step_x", "other"):
        (tmp_path / name).mkdir()
    assert [layout.step_of(path) for path in layout.steps(tmp_path)] == [100, 10, 9]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").write_text("4")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        layout.write_atomically(tmp_path / "t", "6")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    assert (tmp_path / "t").read_text() == "4"


def test_a_new_checkpoint_begins_in_an_empty_folder_when_the_leftovers_are_ours(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_2"
    layout.begin(folder)
    (folder / "actor").mkdir()
    (folder / "actor" / "model_world_size_8_rank_0.pt").write_bytes(b"old")
    layout.begin(folder)
    assert [path.name for path in folder.rglob("*")] == [layout.UNFINISHED]


def test_a_folder_that_is_not_ours_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_2"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    layout.begin(folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_what_cannot_be_removed_stays_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that still writes puts its folder back."""
    folder = tmp_path / "global_step_2"
    layout.begin(folder)
    (folder / "actor").mkdir()
    monkeypatch.setattr(layout.shutil, "rmtree", lambda *_, **__: None)
    layout.discard(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["actor", layout.UNFINISHED]


def test_world_sizes_are_told_from_the_names_of_the_shards() -> None:
    paths = [f"actor/{kind}_world_size_4_rank_{rank}.pt" for kind in ("model", "optim") for rank in range(4)]
    paths += ["critic/model_world_size_2_rank_1.pt", "actor/huggingface/config.json", "data.pt"]
    assert layout.world_sizes(paths) == {"actor": {4}, "critic": {2}}


def test_a_removal_that_is_interrupted_leaves_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "global_step_2"
    (folder / "actor").mkdir(parents=True)
    (folder / layout.MANIFEST).write_text("{}")  # a sealed one has no mark of its own

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layout.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        layout.discard(folder)
    assert (folder / layout.UNFINISHED).exists()

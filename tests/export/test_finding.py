"""Which checkpoint a path means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export import made
from verl_ext.export.finding import Checkpoint, ExportError, find


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run's folder with checkpoints of the steps 2, 4 and 10, of which 4 was the last to be completed."""
    folder = tmp_path / "run" / "checkpoints"
    for step in (2, 4, 10):
        made.fsdp(folder / f"global_step_{step}" / "actor")
    (folder / "latest_checkpointed_iteration.txt").write_text("4")
    return folder


@pytest.mark.parametrize("path", [".", "..", "../..", "global_step_4", "global_step_4/actor"])
def test_every_way_to_name_a_checkpoint(root: Path, path: str) -> None:
    actor = (root / "global_step_4" / "actor").resolve()
    found = find((root / path).resolve())
    assert found == Checkpoint(actor, "fsdp", 4)
    assert found.default_target == (root / "model_step_4").resolve()


def test_a_step_that_is_named_is_taken_whatever_the_tracker_says(root: Path) -> None:
    assert find(root / "global_step_10").step == 10


@pytest.mark.parametrize("content", ["", None])
def test_without_a_readable_tracker_the_newest_step_counts(root: Path, content: str | None) -> None:
    tracker = root / "latest_checkpointed_iteration.txt"
    tracker.unlink() if content is None else tracker.write_text(content)
    assert find(root).step == 10  # and not 4, which is the last in the order of letters


def test_a_tracker_that_names_a_step_that_is_gone(root: Path) -> None:
    (root / "latest_checkpointed_iteration.txt").write_text("6")
    with pytest.raises(ExportError, match="step 6, which is not there; name one of global_step_2, global_step_4, glob"):
        find(root)


def test_several_runs_are_not_guessed_between(root: Path) -> None:
    made.fsdp(root.parent.parent / "other" / "checkpoints" / "global_step_1" / "actor")
    with pytest.raises(ExportError, match=r"several runs; name one: .*other/checkpoints.*run/checkpoints"):
        find(root.parent.parent)


def test_a_checkpoint_of_supervised_training_has_no_actor(tmp_path: Path) -> None:
    made.fsdp(tmp_path / "global_step_3")
    assert find(tmp_path) == Checkpoint(tmp_path / "global_step_3", "fsdp", 3)


def test_weights_outside_a_run(tmp_path: Path) -> None:
    found = find(made.megatron(tmp_path / "saved"))
    assert found == Checkpoint(tmp_path / "saved", "megatron", None)
    assert found.default_target == tmp_path / "saved_model"


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such folder"):
        find(tmp_path / "absent")
    with pytest.raises(ExportError, match="neither weights nor a folder global_step_<n>"):
        find(tmp_path)
    (tmp_path / "global_step_1" / "critic").mkdir(parents=True)
    with pytest.raises(ExportError, match="has no folder actor"):
        find(tmp_path)

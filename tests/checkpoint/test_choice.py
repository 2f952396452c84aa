"""Which checkpoint is taken, and what a user reads when none is."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_ext.run.checkpoint import choice, layout, manifest
from verl_ext.run.checkpoint.choice import Horizon
from verl_ext.run.checkpoint.errors import CheckpointCorrupt, Fault, NothingLeftToDo, OtherWorldSize


def made(root: Path, step: int, world_size: int = 1) -> Path:
    """A complete checkpoint."""
    folder = root / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True)
    for rank in range(world_size):
        (folder / "actor" / f"model_world_size_{world_size}_rank_{rank}.pt").write_bytes(b"weights")
    entries = tuple(manifest.seal(folder, layout.files(folder), digest=True))
    manifest.Manifest(step, {"actor": world_size}, entries, {}).write(folder)
    (root / layout.TRACKER).write_text(str(step))
    return folder


def read(folder: Path) -> list[Fault]:
    return manifest.check(folder, manifest.Manifest.read(folder).entries, content=True)


def nothing(folder: Path) -> None:
    return None


def damage(folder: Path) -> None:
    (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"w3ights")


def test_an_empty_folder_means_from_scratch(tmp_path: Path) -> None:
    assert choice.named_by_tracker(tmp_path / "not there") is None
    (tmp_path / "global_step_1").mkdir()
    layout.begin(tmp_path / "global_step_1")  # killed while it saved for the first time
    assert choice.named_by_tracker(tmp_path) is None


@pytest.mark.parametrize(
    ("tracker", "wrong"), [(None, "is missing"), ("", "holds '' instead of a step"), ("9", "names global_step_9")]
)
def test_a_lost_tracker_does_not_mean_from_scratch(tmp_path: Path, tracker: str | None, wrong: str) -> None:
    """verl would train over the checkpoints that are there, or end with a ValueError about int()."""
    newest = made(tmp_path, 4)
    (tmp_path / layout.TRACKER).unlink() if tracker is None else (tmp_path / layout.TRACKER).write_text(tracker)
    with pytest.raises(CheckpointCorrupt) as error:
        choice.named_by_tracker(tmp_path)
    assert wrong in str(error.value)
    assert f"trainer.resume_mode=resume_path trainer.resume_from_path={newest}" in str(error.value)
    assert error.value.older == newest


def test_a_sound_checkpoint_is_taken(tmp_path: Path) -> None:
    folder = made(tmp_path, 4)
    assert choice.choose(folder, "stop", nothing, read) == folder


def test_a_damaged_one_ends_the_run_with_the_file_and_the_way_out(tmp_path: Path) -> None:
    older, folder = made(tmp_path, 4), made(tmp_path, 6)
    damage(folder)
    with pytest.raises(CheckpointCorrupt) as error:
        choice.choose(folder, "stop", nothing, read)
    text = str(error.value)
    assert "actor/model_world_size_1_rank_0.pt: is altered" in text
    assert f"  trainer.resume_mode=resume_path trainer.resume_from_path={older}\n" in text


def test_previous_goes_back_as_far_as_needed_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, worse = made(tmp_path, 2), made(tmp_path, 4), made(tmp_path, 6)
    damage(bad)
    (worse / "actor" / "model_world_size_1_rank_0.pt").unlink()
    assert choice.choose(worse, "previous", nothing, read) == good
    told = capsys.readouterr().err
    assert f"Going back to {bad}" in told
    assert f"Going back to {good}" in told


def test_previous_without_an_older_one_ends_the_run(tmp_path: Path) -> None:
    folder = made(tmp_path, 4)
    made(tmp_path, 6)  # a later one is not what is asked for
    damage(folder)
    with pytest.raises(CheckpointCorrupt, match="no complete checkpoint before it"):
        choice.choose(folder, "previous", nothing, read)


def test_an_unfinished_checkpoint_is_never_taken(tmp_path: Path) -> None:
    older, folder = made(tmp_path, 4), made(tmp_path, 6)
    (folder / layout.UNFINISHED).touch()
    assert choice.choose(folder, "previous", nothing, read) == older
    with pytest.raises(CheckpointCorrupt, match="the run ended while it wrote this checkpoint"):
        choice.choose(folder, "stop", nothing, read)


def test_nothing_is_read_of_a_checkpoint_that_is_refused(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise NothingLeftToDo("done")

    def never(folder: Path) -> list[Fault]:
        raise AssertionError("it was read")

    with pytest.raises(NothingLeftToDo):
        choice.choose(made(tmp_path, 4), "stop", refuse, never)


@pytest.mark.parametrize(
    ("step", "refused"),
    # 2 steps an epoch, 4 epochs: step 8 is the last by epochs, step 6 by trainer.total_training_steps
    [(5, None), (6, "total_training_steps=6"), (7, "total_training_steps=6"), (8, "total_training_steps=6")],
)
def test_a_checkpoint_of_the_last_step_leaves_nothing_to_do(step: int, refused: str | None) -> None:
    horizon = Horizon(steps=6, epochs=4, steps_per_epoch=2)
    folder = Path(f"/c/global_step_{step}")
    if refused is None:
        return choice.refuse_when_done(folder, horizon)
    with pytest.raises(NothingLeftToDo, match=refused):
        choice.refuse_when_done(folder, horizon)
    return None


def test_the_epochs_may_end_before_the_steps() -> None:
    """Steps 0 to 7 belong to epochs 0 to 3; verl leaves its loop at once when the epoch of the step is 4."""
    horizon = Horizon(steps=100, epochs=4, steps_per_epoch=2)
    choice.refuse_when_done(Path("/c/global_step_7"), horizon)
    with pytest.raises(NothingLeftToDo, match="total_epochs=4 with 2 steps each"):
        choice.refuse_when_done(Path("/c/global_step_8"), horizon)


def test_a_run_that_only_validates_may_start_from_the_last_step() -> None:
    choice.refuse_when_done(Path("/c/global_step_8"), Horizon(6, 4, 2, only_validates=True))


def test_another_world_size_is_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = made(tmp_path, 4, world_size=2)
    choice.refuse_other_world_size(folder, 2)
    with pytest.raises(OtherWorldSize) as error:
        choice.refuse_other_world_size(folder, 3)
    assert "was written by 2 training processes, this run has 3" in str(error.value)
    assert f"verl-ext eval export {folder} --out MERGED" in str(error.value)


def test_the_list_tells_the_world_size_where_the_shards_are_on_other_nodes(tmp_path: Path) -> None:
    elsewhere = manifest.Entry("actor/model_world_size_2_rank_0.pt", 7, "", (0, 1))
    (tmp_path / "global_step_4").mkdir()
    manifest.Manifest(4, {"actor": 2}, (elsewhere,), {}).write(tmp_path / "global_step_4")
    with pytest.raises(OtherWorldSize, match="by 2 training processes, this run has 4"):
        choice.refuse_other_world_size(tmp_path / "global_step_4", 4)


def test_one_without_a_list_is_told_by_the_names_of_its_files(tmp_path: Path) -> None:
    folder = made(tmp_path, 4, world_size=2)
    (folder / layout.MANIFEST).unlink()
    with pytest.raises(OtherWorldSize):
        choice.refuse_other_world_size(folder, 3)


def test_errors_arrive_whole_from_another_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(CheckpointCorrupt("broken", Path("/c/global_step_4"))))
    assert (str(error), error.older) == ("broken", Path("/c/global_step_4"))

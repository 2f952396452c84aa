"""The guards in verl's own trainer: a planted NaN, a collapse with a way back, a reward function that always raises."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import data  # noqa: F401
from verl_ext import batch_file
from verl_ext.toy.models import build_untrained

pytestmark = [pytest.mark.ray, pytest.mark.slow]
HERE = Path(__file__).resolve().parent


def start(folder: Path, problems: Path, steps: int, own: list[str], env: dict[str, str] | None = None):
    """A trainer run that saves a checkpoint at every step."""
    import trainer

    model = build_untrained("tiny_dense", True, folder / "model", seed=0)
    arguments = [
        *trainer.overrides(model, problems, steps),
        f"trainer.default_local_dir={folder}/checkpoints",
        "trainer.save_freq=1",
        "actor_rollout_ref.actor.optim.lr=1e-4",
    ]
    paths = f"{trainer.HERE}:{HERE}"
    modules = "recorder,plant_values" if env else "recorder"
    own_env = {**(env or {}), "PYTHONPATH": paths, "VERL_USE_EXTERNAL_MODULES": modules}
    return trainer.run(folder / "run", [*arguments, *own], env=own_env)


def incident(folder: Path, name: str) -> tuple[dict, batch_file.BatchFile]:
    kept = folder / "checkpoints" / "guards" / name
    return json.loads((kept / "reason.json").read_text()), batch_file.read(kept)


def test_a_planted_nan_ends_the_run_with_field_and_row_named_and_the_batch_kept(tmp_path, data) -> None:  # noqa: F811
    env = {"VERL_EXT_PLANT": "old_log_probs:nan:2", "VERL_EXT_PLANT_ROW": "3"}
    run = start(tmp_path, data, 4, [], env)
    planted, key = (run.folder / "record" / "planted-2").read_text().split()
    print(f"\nTABLE nan: {run.ended - float(planted):.1f} s, exit code {run.returncode}")
    assert run.returncode == 1, run.tail()
    assert run.ended - float(planted) < 60
    assert f"old_log_probs: 1 value in 1 row ({key})" in run.log, run.tail()
    assert [step["training/global_step"] for step in run.steps] == [1]
    assert (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "1"
    assert not (tmp_path / "checkpoints" / "global_step_2").exists()

    reason, batch = incident(tmp_path, "step-00002-nonfinite")
    print(json.dumps(reason, indent=1))
    assert (reason["guard"], reason["step"], reason["action"], reason["rows"]) == ("nonfinite", 2, "stop", [key])
    assert batch.step == 2
    assert len(batch) == 32
    row = batch.columns["key"].index(key)
    values = batch.columns["old_log_probs"]
    assert values[row][0] != values[row][0]
    assert sum(int((found != found).sum()) for found in values) == 1
    assert [len(r) for r in batch.columns["responses"]] == [len(r) for r in batch.columns["advantages"]]


def test_after_a_collapse_the_run_goes_back_to_the_last_good_checkpoint(tmp_path, data) -> None:  # noqa: F811
    """Low at steps 3 and 4. Checkpoint 2 is the policy measured at step 3, so 1 is the last good one."""
    own = [
        "+verl_ext.guards.entropy_floor=1",
        "+verl_ext.guards.entropy_steps=2",
        "+verl_ext.guards.entropy_action=rollback",
    ]
    run = start(tmp_path, data, 5, own, {"VERL_EXT_PLANT": "entropy:0.01:3,4"})
    assert run.returncode == 0, run.tail()
    assert "The run goes back to checkpoint 1, rollback 1" in run.log
    figures = [
        (step["training/global_step"], step["guards/entropy/streak"], step["guards/entropy/rollbacks"])
        for step in run.steps
    ]
    print(f"\nTABLE rollback: {figures}", [step["guards/entropy/mean"] for step in run.steps])
    assert figures == [(1, 0, 0), (2, 0, 0), (3, 1, 0), (4, 0, 1), (5, 0, 1)]
    # Step 4 makes no update, so its checkpoint is checkpoint 1 again, bit for bit, optimizer and scheduler included.
    for kind in ("model", "optim", "extra_state"):
        first, third, fourth = (shard(tmp_path, step, kind) for step in (1, 3, 4))
        assert fourth == first, kind
        # The schedule's numbers are pickled; of the extra state only the random state is compared here.
        if kind != "extra_state":
            assert third != first, kind
    # The rollout engine samples from the restored weights: at step 5 it agrees with the actor.
    assert run.steps[4]["training/rollout_log_probs_diff_max"] < 1e-3
    assert "actor/grad_norm" not in run.steps[3]
    reason, batch = incident(tmp_path, "step-00004-entropy")
    assert reason["figures"]["checkpoint"] == 1
    assert (reason["figures"]["began"], reason["figures"]["good"]) == (3, [1])
    assert (batch.step, len(batch)) == (4, 32)


def shard(folder: Path, step: int, kind: str) -> dict[str, bytes]:
    """The tensors of one file of a checkpoint, as bytes; without the pickled names, in which folders may appear."""
    (path,) = (folder / "checkpoints" / f"global_step_{step}" / "actor").glob(f"{kind}_world_size_1_rank_0.pt")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if "/data/" in name}


@pytest.mark.parametrize("refill", ["false", "true"])
def test_a_reward_function_that_always_raises_ends_the_run_with_its_exception(tmp_path, data, refill) -> None:  # noqa: F811
    """verl alone says that there are no trajectories or, where failed groups are replaced, goes on for ever."""
    own = [
        f"reward.custom_reward_function.path={HERE}/raising_reward.py",
        "+verl_ext.reward_probe=off",  # it would end the run before its start
        f"trainer.v1.sampler.sync_refill_failed_groups={refill}",
        *(["data.gen_batch_size=1"] if refill == "true" else []),
    ]
    run = start(tmp_path, data, 2, own)
    raised = float((run.folder / "record" / "raised").read_text())
    print(f"\nTABLE reward refill={refill}: {run.ended - raised:.1f} s, exit code {run.returncode}")
    assert run.returncode == 1, run.tail()
    assert run.ended - raised < 60
    assert "groups in a row came back without a single response" in run.log, run.tail()
    assert "the reward function raised KeyError: 'answer_of_another_dataset'" in run.log
    assert f"({HERE}/raising_reward.py:" in run.log
    assert (
        json.loads((tmp_path / "checkpoints" / "guards" / "step-00001-verifier" / "reason.json").read_text())["batch"]
        is None
    )


ZERO = (f"reward.custom_reward_function.path={HERE}/zero_reward.py",)
FILTER = ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc")


def test_a_reward_that_is_always_zero_is_told_within_three_steps_with_an_example(tmp_path, data) -> None:  # noqa: F811
    run = start(tmp_path, data, 3, [*ZERO])
    assert run.returncode == 0, run.tail()
    names = ("train/groups_without_spread", "train/groups_all_wrong", "train/groups_all_right")
    assert [[step[name] for name in names] for step in run.steps] == [[1, 1, 0]] * 3
    assert "guard 'no_signal', step 3: for 3 steps in a row" in run.log, run.tail()
    assert f"The reward function is compute_score of {HERE}/zero_reward.py." in run.log
    reason, batch = incident(tmp_path, "step-00003-no_signal")
    example = reason["figures"]["example"]
    row = batch.columns["key"].index(example["key"])
    assert reason["action"] == "warn"
    assert example["response"] == batch.columns["response_text"][row]
    assert example["ground_truth"] == batch.columns["ground_truth"][row]
    assert f"  ground truth: {json.dumps(example['ground_truth'])}" in run.log
    assert "  reward: 0 (outcome=wrong, acc=0.0)" in run.log


def test_a_filter_that_leaves_nothing_ends_the_run_where_asked(tmp_path, data) -> None:  # noqa: F811
    """verl alone takes all groups away and fetches others, for ever: step 1 is never reached."""
    run = start(tmp_path, data, 3, [*ZERO, *FILTER, "+verl_ext.guards.no_signal_action=stop"])
    assert run.returncode == 1, run.tail()
    assert "guard 'no_signal', step 1: for 3 batches, all taken away by filter_groups, in a row" in run.log, run.tail()
    assert run.steps == []
    reason, batch = incident(tmp_path, "step-00001-no_signal")
    assert reason["figures"]["all_wrong"] == reason["figures"]["number"] >= 8
    assert reason["figures"]["example"]["key"] in batch.columns["key"]

"""verl's own trainer class, its saving and loading with ours around them, on real files."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from verl.trainer.ppo.v1 import trainer_base

from tests.bridge.configurations import compose
from tests.checkpoint import stand_in
from tests.checkpoint.small_disk import small_disk
from verl_ext.bridge import checkpoint as bridge
from verl_ext.run import state as run_state
from verl_ext.run.checkpoint import layout, manifest
from verl_ext.run.checkpoint.errors import (
    CheckpointCorrupt,
    CheckpointNotWritten,
    NothingLeftToDo,
    OtherWorldSize,
)


@pytest.fixture(autouse=True)
def _forgotten() -> Any:
    run_state.clear()
    yield
    run_state.clear()


def started(root: Path, **settings: Any) -> Any:
    """A trainer that has loaded what it resumes from, right before its first step."""
    made = stand_in.trainer(root, **settings)
    made._load_checkpoint()
    torch.rand(3)  # a validation before training draws
    random.random()
    made._reissue_inflight_prompts()
    return made


def at(root: Path, step: int) -> dict[str, str]:
    return {"resume_mode": "resume_path", "resume_from_path": str(root / f"global_step_{step}")}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_2k_steps_equal_k_steps_and_a_resume(tmp_path: Path, k: int) -> None:
    """Rows, random numbers, KL coefficient: in the middle of an epoch of two steps (odd k) and at its end (even k)."""
    straight = stand_in.save_after(started(tmp_path), 6)
    random.seed(k)
    torch.manual_seed(k)
    resumed = started(tmp_path, **at(tmp_path, k))
    assert resumed.global_steps == k
    assert [stand_in.step(resumed) for _ in range(k, 6)] == straight[k:]


def test_auto_takes_the_newest_one_and_the_configuration_is_as_before(tmp_path: Path) -> None:
    stand_in.save_after(started(tmp_path), 3)
    resumed = started(tmp_path)
    assert resumed.global_steps == 3
    assert resumed.actor_rollout_wg.loaded == [str(tmp_path / "global_step_3" / "actor")]
    assert (resumed.config.trainer.resume_mode, resumed.config.trainer.resume_from_path) == ("auto", None)


def test_disabled_means_from_scratch(tmp_path: Path) -> None:
    stand_in.save_after(started(tmp_path), 1)
    assert started(tmp_path, resume_mode="disable").global_steps == 0


def test_every_file_is_read_before_any_is_loaded(tmp_path: Path) -> None:
    stand_in.save_after(started(tmp_path), 2)
    shard = tmp_path / "global_step_2" / "actor" / "optim_world_size_2_rank_1.pt"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    made = stand_in.trainer(tmp_path)
    with pytest.raises(CheckpointCorrupt, match=r"optim_world_size_2_rank_1\.pt: is altered") as error:
        made._load_checkpoint()
    assert str(tmp_path / "global_step_1") in str(error.value)
    assert made.actor_rollout_wg.asked == ["check"]
    assert made.actor_rollout_wg.loaded == []
    assert started(tmp_path, verl_ext={"on_corrupt": "previous"}).global_steps == 1


@pytest.mark.parametrize("name", ["data.pt", "verl_ext.json", "verl_ext.manifest.json"])
def test_a_damaged_file_of_the_trainers_own_is_named(tmp_path: Path, name: str) -> None:
    stand_in.save_after(started(tmp_path), 1)
    (tmp_path / "global_step_1" / name).write_bytes(b"{")
    with pytest.raises(CheckpointCorrupt, match=name.replace(".", r"\.")):
        started(tmp_path)


def test_a_lost_tracker_goes_back_to_the_newest_when_allowed(tmp_path: Path) -> None:
    stand_in.save_after(started(tmp_path), 2)
    (tmp_path / layout.TRACKER).write_text("")
    with pytest.raises(CheckpointCorrupt, match="instead of a step"):
        started(tmp_path)
    assert started(tmp_path, verl_ext={"on_corrupt": "previous"}).global_steps == 2


def test_one_made_without_the_plugin_is_resumed_from_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.save_after(started(tmp_path), 2)
    for name in (layout.MANIFEST, layout.STATE):
        (tmp_path / "global_step_2" / name).unlink()
    assert started(tmp_path).global_steps == 2
    told = capsys.readouterr().err
    assert "it is resumed from unchecked" in told
    assert "has no verl_ext.json" in told


def test_another_world_size_is_refused_before_any_process_is_asked(tmp_path: Path) -> None:
    stand_in.save_after(started(tmp_path, world_size=2), 1)
    made = stand_in.trainer(tmp_path, world_size=4)
    with pytest.raises(OtherWorldSize, match="by 2 training processes, this run has 4"):
        made._load_checkpoint()
    assert made.actor_rollout_wg.asked == made.actor_rollout_wg.loaded == []


def test_a_run_with_nothing_left_to_do_ends(tmp_path: Path) -> None:
    stand_in.save_after(started(tmp_path, steps=3), 3)
    with pytest.raises(NothingLeftToDo):
        started(tmp_path, steps=3)
    with pytest.raises(NothingLeftToDo):
        started(tmp_path, steps=9, epochs=1)
    assert started(tmp_path, steps=3, val_only=True).global_steps == 3
    assert started(tmp_path, steps=4).global_steps == 3


def test_the_tracker_names_a_checkpoint_only_once_it_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = started(tmp_path)
    stand_in.save_after(made, 1)
    seen = []
    write = layout.write_atomically

    def watch(path: Path, text: str) -> None:
        complete = [folder.name for folder in layout.steps(tmp_path) if manifest.complete(folder)]
        seen.append((path.name, (tmp_path / layout.TRACKER).read_text(), complete))
        write(path, text)

    monkeypatch.setattr(layout, "write_atomically", watch)
    stand_in.save_after(made, 1)
    assert seen == [
        (layout.STATE, "1", ["global_step_1"]),
        (layout.MANIFEST, "1", ["global_step_1"]),
        (layout.TRACKER, "1", ["global_step_2", "global_step_1"]),
    ]
    assert (tmp_path / layout.TRACKER).read_text() == "2"


def test_a_callback_of_the_users_sees_a_sealed_checkpoint_and_its_failure_leaves_it(tmp_path: Path) -> None:
    made = started(tmp_path)

    def on_save(checkpoint_dir: str, **_: Any) -> None:
        assert manifest.complete(Path(checkpoint_dir))
        raise ConnectionError("upload failed")

    made.checkpoint_callback.on_save = on_save
    with pytest.raises(ConnectionError):
        stand_in.save_after(made, 1)
    assert started(tmp_path).global_steps == 1


def test_a_failed_save_leaves_nothing_and_the_one_before_it_usable(tmp_path: Path) -> None:
    made = started(tmp_path)
    stand_in.save_after(made, 1)
    made.actor_rollout_wg.fail = RuntimeError("PytorchStreamWriter failed writing file data/2: file write failed")
    with pytest.raises(CheckpointNotWritten, match=r"the checkpoint of step 2 was not written: the disk .* is full"):
        stand_in.save_after(made, 1)
    assert not (tmp_path / "global_step_2").exists()
    assert started(tmp_path).global_steps == 1


def test_a_full_disk_is_named_with_what_is_needed_and_free(tmp_path: Path) -> None:
    """A real one, of which the first checkpoint leaves less than the second one takes."""
    with small_disk(tmp_path / "disk", 120 * 1024) as disk:
        made = started(disk)
        with pytest.raises(CheckpointNotWritten) as error:
            stand_in.save_after(made, 9)
        complete = made.global_steps - 1
        assert complete >= 1
        text = str(error.value)
        assert f"mounted at {disk} is full" in text
        assert " are needed, " in text
        assert f"The newest complete checkpoint is {disk}/global_step_{complete}" in text
        assert not (disk / f"global_step_{complete + 1}").exists()
        assert (disk / layout.TRACKER).read_text() == str(complete)
        assert started(disk, steps=99).global_steps == complete


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = started(tmp_path)
    stand_in.save_after(made, 1)
    monkeypatch.setattr("verl_ext.run.checkpoint.space.tensor_bytes", lambda engine: 1 << 50)
    with pytest.raises(CheckpointNotWritten, match=r"has no room for it: 2048\.0 TiB are needed, .* are free"):
        stand_in.save_after(made, 1)
    assert not (tmp_path / "global_step_2").exists()
    stand_in.save_after(started(tmp_path, verl_ext={"check_space": False}), 1)
    assert manifest.complete(tmp_path / "global_step_2")


def test_a_critic_is_listed_and_checked_too(tmp_path: Path) -> None:
    def with_critic() -> Any:
        made = stand_in.trainer(tmp_path)
        made.use_critic, made.critic_wg = True, stand_in.Ranks(2)
        return made

    stand_in.save_after(with_critic(), 1)
    shard = tmp_path / "global_step_1" / "critic" / "model_world_size_2_rank_1.pt"
    found = manifest.Manifest.read(tmp_path / "global_step_1")
    assert found.world_size == {"actor": 2, "critic": 2}
    assert "critic/model_world_size_2_rank_1.pt" in {entry.path for entry in found.entries}
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointCorrupt, match=r"critic/model_world_size_2_rank_1\.pt: is altered"):
        with_critic()._load_checkpoint()


def test_leftovers_of_another_world_size_are_not_sealed_in(tmp_path: Path) -> None:
    stand_in.save_after(started(tmp_path, world_size=4), 1)
    stand_in.save_after(started(tmp_path, world_size=2, resume_mode="disable"), 1)
    assert layout.world_sizes(layout.files(tmp_path / "global_step_1")) == {"actor": {2}}


def test_asynchronous_saving_gets_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = started(tmp_path)
    made.config.actor_rollout_ref.actor.checkpoint.async_save = True
    stand_in.save_after(made, 1)
    assert not manifest.complete(tmp_path / "global_step_1")
    assert (tmp_path / "global_step_1" / layout.STATE).exists()
    assert "async_save=true" in capsys.readouterr().err


# --- in the driver, before Ray starts


def driver_config(root: Path, *more: str) -> Any:
    return compose("+backend=cpu", "+algo=grpo", f"trainer.default_local_dir={root}", *more)


def test_the_driver_refuses_what_names_and_sizes_tell(tmp_path: Path) -> None:
    bridge.refuse_early(driver_config(tmp_path / "nothing there"))
    stand_in.save_after(started(tmp_path, world_size=2), 2)
    two = "trainer.n_gpus_per_node=2"
    bridge.refuse_early(driver_config(tmp_path, two, "trainer.total_training_steps=3"))
    bridge.refuse_early(driver_config(tmp_path, two))  # the length of the data is not known here
    with pytest.raises(NothingLeftToDo):
        bridge.refuse_early(driver_config(tmp_path, two, "trainer.total_training_steps=2"))
    with pytest.raises(OtherWorldSize, match="by 2 training processes, this run has 6"):
        bridge.refuse_early(driver_config(tmp_path, "trainer.n_gpus_per_node=3", "trainer.nnodes=2"))
    (tmp_path / "global_step_2" / "data.pt").write_bytes(b"")
    with pytest.raises(CheckpointCorrupt, match=r"data\.pt: has 0 bytes instead of"):
        bridge.refuse_early(driver_config(tmp_path, two))
    bridge.refuse_early(driver_config(tmp_path, two, "+verl_ext.checkpoint.on_corrupt=previous"))
    bridge.refuse_early(driver_config(tmp_path, two, "trainer.resume_mode=disable"))


def test_what_the_driver_cannot_see_is_left_to_the_trainer(tmp_path: Path) -> None:
    asked = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={tmp_path}/other/global_step_3"]
    bridge.refuse_early(driver_config(tmp_path, *asked))


def test_verls_own_validation_calls_it(tmp_path: Path) -> None:
    import verl.utils.config

    stand_in.save_after(started(tmp_path, world_size=2), 1)
    (tmp_path / "rows.jsonl").touch()
    here = [f"data.{key}={tmp_path}/rows.jsonl" for key in ("train_files", "val_files")]
    config = driver_config(tmp_path, *here, f"actor_rollout_ref.model.path={tmp_path}", "+verl_ext.reward_probe=off")
    with pytest.raises(OtherWorldSize):
        verl.utils.config.validate_config(config, use_reference_policy=False, use_critic=False)


# --- contracts


def test_contract_verl_writes_the_tracker_last_and_through_open() -> None:
    source = inspect.getsource(inspect.unwrap(trainer_base.PPOTrainer._save_checkpoint))
    assert 'with open(local_latest_checkpointed_iteration, "w") as f:' in source
    written = source.index("open(local_latest_checkpointed_iteration")
    for earlier in ("save_checkpoint(", "data.pt", "tq.save_checkpoint("):
        assert source.index(earlier) < written
    assert source.rindex("on_save(") > written


def test_contract_the_last_thing_before_the_loop_that_every_trainer_has() -> None:
    """After the validation, and not overridden: so restored random numbers are the first that a step draws."""
    source = inspect.getsource(trainer_base.PPOTrainer.fit)
    assert source.index("self._validate()") < source.index("self._reissue_inflight_prompts()")
    assert source.index("self._reissue_inflight_prompts()") < source.index("while current_epoch")
    for cls in [trainer_base.get_trainer_cls(name) for name in ("sync", "colocate_async", "separate_async")]:
        for name in ("_reissue_inflight_prompts", "_save_checkpoint", "_load_checkpoint"):
            assert getattr(cls, name) is getattr(trainer_base.PPOTrainer, name), f"{cls.__name__}.{name}"


def test_contract_verl_ends_quietly_when_nothing_is_left() -> None:
    """When this fails, verl may say so itself."""
    source = inspect.getsource(trainer_base.PPOTrainer.fit)
    assert "while current_epoch < self.config.trainer.total_epochs and self.global_steps <= self.total" in source
    assert "raise" not in source


def test_contract_the_iterator_is_made_at_the_first_fetch() -> None:
    source = inspect.getsource(trainer_base.PPOTrainer._fetch_one_gen_batch)
    assert "if self.train_dataloader_it is None:" in source


def test_contract_workers_have_our_method_under_verls_dispatch() -> None:
    from verl.single_controller.base.decorator import MAGIC_ATTR, Dispatch
    from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

    for cls in (ActorRolloutRefWorker, TrainingWorker):
        assert getattr(getattr(cls, bridge.METHOD), MAGIC_ATTR)["dispatch_mode"] == Dispatch.ONE_TO_ALL
    assert "self.engine" in inspect.getsource(TrainingWorker.save_checkpoint)
    assert "self.actor.save_checkpoint" in inspect.getsource(ActorRolloutRefWorker.save_checkpoint)


def test_contract_the_critics_folder_is_its_role() -> None:
    from verl.trainer.ppo.utils import Role

    assert str(Role.Critic) == "critic"


def test_contract_shards_are_named_by_world_size_and_rank() -> None:
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    source = inspect.getsource(FSDPCheckpointManager.save_checkpoint)
    for kind in ("model", "optim", "extra_state"):
        assert f'"{kind}_world_size_{{self.world_size}}_rank_{{self.rank}}.pt"' in source
    assert layout.shard("actor/extra_state_world_size_16_rank_11.pt") == (16, 11)


def test_contract_an_adaptive_controller_is_told_by_its_horizon() -> None:
    from verl.trainer.ppo import core_algos

    adaptive, fixed = core_algos.AdaptiveKLController(0.1, 0.1, 100), core_algos.FixedKLController(0.1)
    assert hasattr(adaptive, "horizon")
    assert not hasattr(fixed, "horizon")
    assert adaptive.value == fixed.value == 0.1
    assert "self.kl_ctrl_in_reward" in inspect.getsource(trainer_base.PPOTrainer.__init__)

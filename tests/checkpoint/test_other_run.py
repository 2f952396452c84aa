"""A run that finds the checkpoint of another one: in the driver, and in the trainer before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.checkpoint import stand_in
from tests.checkpoint.test_identity import HUGGINGFACE, rewrite
from verl_ext.bridge import checkpoint as bridge
from verl_ext.bridge import run_identity
from verl_ext.run.checkpoint import layout
from verl_ext.run.checkpoint.errors import NothingLeftToDo, OtherRun

ACTOR, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.model"


def trainer(folder: Path, changes: dict[str, Any], **settings: Any) -> Any:
    """A trainer of the model and data in `folder`, with some keys changed."""
    driver = {"nnodes": 1, "n_gpus_per_node": 2, "total_training_steps": None}
    made = stand_in.trainer(folder / "checkpoints", **{**driver, **settings})
    places = {f"{MODEL}.path": str(folder / "model"), "data.train_files": [str(folder / "train.parquet")]}
    for key, value in {**places, **changes}.items():
        OmegaConf.update(made.config, key, value, force_add=True)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GRPO run's: model, data, and a checkpoint of one step."""
    shutil.copytree(HUGGINGFACE, tmp_path / "model")
    (tmp_path / "train.parquet").write_bytes(b"rows")
    made = trainer(tmp_path, {})
    made._load_checkpoint()
    stand_in.save_after(made, 1)
    return tmp_path


def swap_rows(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"swor")


def other_layers(folder: Path) -> None:
    rewrite(folder / "model" / "config.json", num_hidden_layers=2)


def other_vocabulary(folder: Path) -> None:
    rewrite(folder / "model" / "tokenizer.json", model={})


ESPO = {f"{ACTOR}.policy_loss": {"_target_": "verl_ext.config.ESPOLossConfig", "loss_mode": "espo"}}
OTHERS: dict[str, tuple[dict[str, Any] | Callable[[Path], None], str]] = {
    "loss": (ESPO, "loss: vanilla in the checkpoint, espo in this run"),
    "verl's loss": ({f"{ACTOR}.policy_loss.loss_mode": "gspo"}, "loss: vanilla in the checkpoint, gspo in this run"),
    "estimator": ({"algorithm.adv_estimator": "rloo"}, "estimator: grpo in the checkpoint, rloo in this run"),
    "LoRA": (
        {f"{MODEL}.lora_rank": 8, f"{MODEL}.target_modules": "all-linear"},
        "adapter: no LoRA in the checkpoint, LoRA of rank 8 on all-linear in this run",
    ),
    "LoRA of Megatron": ({f"{MODEL}.lora": {"rank": 4}}, "adapter: no LoRA in the checkpoint, LoRA of rank 4 on "),
    "optimizer": ({f"{ACTOR}.optim.optimizer": "SGD"}, "optimizer: AdamW in the checkpoint, SGD in this run"),
    "model": (other_layers, "model: "),
    "tokenizer": (other_vocabulary, "tokenizer: "),
    "data": (swap_rows, "data: "),
}


def changed(folder: Path, name: str) -> tuple[dict[str, Any], str]:
    change, told = OTHERS[name]
    if isinstance(change, dict):
        return change, told
    change(folder)
    return {}, told


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_in_the_driver_and_in_the_trainer(folder: Path, name: str) -> None:
    changes, told = changed(folder, name)
    made = trainer(folder, changes)
    for refuse in (lambda: bridge.refuse_early(made.config), made._load_checkpoint):
        with pytest.raises(OtherRun) as error:
            refuse()
        text = str(error.value)
        assert f"{folder}/checkpoints/global_step_1 was made by another run:\n  - {told}" in text
        assert text.count("  - ") == 1
        for way_out in ("trainer.default_local_dir", "trainer.experiment_name", "trainer.resume_mode=disable"):
            assert way_out in text
        assert "+verl_ext.checkpoint.other_run=allow" in text
    assert made.actor_rollout_wg.asked == made.actor_rollout_wg.loaded == []


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_resumed_from_where_that_is_allowed_and_said(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, told = changed(folder, name)
    made = trainer(folder, changes, verl_ext={"other_run": "allow"})
    bridge.refuse_early(made.config)
    made._load_checkpoint()
    assert made.global_steps == 1
    assert told in capsys.readouterr().err


def test_another_run_at_its_end_is_another_run_first(folder: Path) -> None:
    with pytest.raises(OtherRun):
        bridge.refuse_early(trainer(folder, ESPO, total_training_steps=1).config)
    with pytest.raises(NothingLeftToDo):
        bridge.refuse_early(trainer(folder, {}, total_training_steps=1).config)


def test_resume_path_is_looked_at_as_well(folder: Path) -> None:
    path = {"resume_mode": "resume_path", "resume_from_path": str(folder / "checkpoints" / "global_step_1")}
    with pytest.raises(OtherRun):
        bridge.refuse_early(trainer(folder, ESPO, **path).config)
    bridge.refuse_early(trainer(folder, {}, **path).config)
    bridge.refuse_early(trainer(folder, ESPO, resume_mode="disable").config)


def test_validation_asks_for_the_model_alone(folder: Path) -> None:
    swap_rows(folder)
    bridge.refuse_early(trainer(folder, ESPO, val_only=True).config)
    other_layers(folder)
    with pytest.raises(OtherRun, match="model: "):
        bridge.refuse_early(trainer(folder, ESPO, val_only=True).config)


def test_moved_files_are_the_same_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model", "train.parquet"):
        (folder / name).rename(folder / f"moved-{name}")
    moved = {f"{MODEL}.path": f"{folder}/moved-model", "data.train_files": f"{folder}/moved-train.parquet"}
    made = trainer(folder, moved)
    bridge.refuse_early(made.config)
    made._load_checkpoint()
    assert made.global_steps == 1
    told = capsys.readouterr().err
    assert "was made by another run" not in told
    assert "was made with other settings" not in told


def test_what_the_driver_cannot_look_into_is_left_to_the_trainer(folder: Path) -> None:
    made = trainer(folder, {"data.train_files": "hdfs://elsewhere/train.parquet"})
    bridge.refuse_early(made.config)
    with pytest.raises(OtherRun, match=r"data: .*train\.parquet \(content .* hdfs://elsewhere/train\.parquet in this"):
        made._load_checkpoint()


def test_other_settings_seeds_and_versions_are_a_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_identity, "version", {"verl": "8", "verl-ext": "7"}.get)
    made = trainer(folder, {f"{ACTOR}.clip_ratio_high": 0.3, f"{ACTOR}.optim.lr": 2e-3, "data.seed": 2})
    bridge.refuse_early(made.config)
    made._load_checkpoint()
    told = capsys.readouterr().err
    for note in ("loss clip_ratio_high 0.2 -> 0.3", "optimizer lr 0.001 -> 0.002", "seed data.seed 1 -> 2"):
        assert f"  - {note}\n" in told
    assert f"  - versions verl {version('verl')} -> 8\n" in told
    assert f"  - versions verl-ext {version('verl-ext')} -> 7\n" in told
    assert made.global_steps == 1


def test_a_checkpoint_of_an_earlier_plugin_is_resumed_from_with_a_note(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "checkpoints" / "global_step_1" / layout.MANIFEST
    content = json.loads(file.read_text())
    assert content.pop("identity")["parts"]["loss"]["name"] == "vanilla"
    file.write_text(json.dumps(content))
    made = trainer(folder, ESPO)
    bridge.refuse_early(made.config)
    made._load_checkpoint()
    assert made.global_steps == 1
    assert "does not tell which run made it" in capsys.readouterr().err


def test_the_run_is_what_it_was_when_training_began(folder: Path) -> None:
    """A data file that is replaced while training goes on belongs to the next run."""
    made = trainer(folder, {})
    made._load_checkpoint()
    swap_rows(folder)
    stand_in.save_after(made, 1)
    with pytest.raises(OtherRun, match="global_step_2 was made by another run:\n  - data"):
        bridge.refuse_early(trainer(folder, {}).config)

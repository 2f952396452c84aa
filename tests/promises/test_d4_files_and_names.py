"""Absent files, unknown loggers and mistyped choices: a note where a run is prepared, a fault where it starts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import verl.utils.config
from rich.console import Console

from verl_ext.composing.errors import ConfigError
from verl_ext.train import command, compose

ARGUMENTS = [
    "algo=grpo",
    "backend=cpu",
    "actor_rollout_ref.actor.use_dynamic_bsz=true",
    "actor_rollout_ref.rollout.n=8",
]
NOWHERE = {
    "actor_rollout_ref.model.path": "/nowhere/model",
    "data.train_files": "/nowhere/train.parquet",
    "reward.custom_reward_function.path": "/nowhere/reward.py",
}


def train(arguments: list[str], dry_run: bool) -> tuple[int, str]:
    text = io.StringIO()
    status = command.train(arguments, dry_run, Console(file=text, soft_wrap=True, highlight=False, markup=False))
    return status, text.getvalue()


def test_absent_files_are_notes_of_a_dry_run_and_faults_of_a_start(tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, *(f"{key}={path}" for key, path in NOWHERE.items())]
    arguments.append(f"trainer.default_local_dir={tmp_path}/out")
    status, said = train(arguments, dry_run=True)
    assert status == 0
    for key, path in NOWHERE.items():
        assert f"note: {key}={path}: not on this machine" in said
    status, said = train(arguments, dry_run=False)
    assert status == 1
    for key, path in NOWHERE.items():
        assert f"  - {key}={path}: not on this machine" in said
    with pytest.raises(ConfigError) as stock:
        verl.utils.config.validate_config(compose(arguments).config, False, False)
    for key, path in NOWHERE.items():
        assert f"  - {key}={path}: not on this machine" in str(stock.value)


def test_an_unknown_logger_is_always_a_fault() -> None:
    status, said = train([*ARGUMENTS, "trainer.logger=[consol]"], dry_run=True)
    assert status == 1
    assert "trainer.logger=consol: no such logger; did you mean 'console'?" in said


def test_a_typo_in_experiment_hides_no_other_fault() -> None:
    status, said = train(["experiment=espo/table1/gspoo", "data.train_batch_size=100", "trainer.logger=[consol]"], True)
    assert status == 1
    for part in ("did you mean 'espo/table1/gspo'?", "data.train_batch_size=100 is no multiple", "'console'?"):
        assert part in said


def test_a_tables_name_is_answered_with_its_rows() -> None:
    _, said = train(["experiment=erpo/table1"], dry_run=True)
    assert "it is a table: choose a row, experiment=erpo/table1/ROW, of " in said
    assert "erpo_1_5b" in said
    assert "did you mean" not in said

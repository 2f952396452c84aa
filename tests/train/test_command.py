"""`verl-ext train`: what is printed where, the exit status, and the child."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from verl_ext.composing.compose import Composed
from verl_ext.train import command, compose


class Scripted(Composed):
    """A configuration whose command is a small script."""

    script = ""

    def command(self) -> list[str]:
        return ["-c", self.script]


def console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, soft_wrap=True, highlight=False, markup=False), text


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    def composed(arguments: list[str]) -> Composed:
        real = compose(arguments)
        return Scripted(**{field.name: getattr(real, field.name) for field in dataclasses.fields(real)})

    monkeypatch.setattr(command, "compose", composed)
    return Scripted


def test_a_dry_run_prints_the_resolved_yaml_alone_to_the_standard_output(
    sample_paper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, text = console()
    assert command.train(["experiment=sample/table1/sspo_1_5b", "trainer.save_freq=7"], True, shown) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["trainer"]["save_freq"] == 7
    assert resolved["actor_rollout_ref"]["rollout"]["response_length"] == resolved["data"]["max_response_length"]
    said = text.getvalue()
    assert "data=math_l3to5 algo=sspo experiment=sample/table1/sspo_1_5b" in said
    assert "loss sspo, estimator grpo" in said
    assert "1 x 8 GPUs, fsdp2" in said
    assert "sample/table1-sspo_1_5b-seed42, in checkpoints/sample/table1-sspo_1_5b-seed42\n" in said
    assert "python -m verl.trainer.main_ppo --config-name ppo_trainer +experiment=sample/table1/sspo_1_5b" in said


def test_a_dry_run_tells_all_faults_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    shown, text = console()
    wrong = ["algo=grpo", "data.train_batch_size=100", "actor_rollout_ref.actor.clip_ratio_low=1e-4"]
    assert command.train([*wrong, "actor_rollout_ref.actor.clip_ratio_high=1e-4"], True, shown) == 1
    said = text.getvalue().split("the configuration cannot run:")[1]
    assert "rollout.name has no value" in said
    assert "data.train_batch_size=100" in said
    assert "clip_ratio_low=0.0001" in said
    assert "trainer:" in capsys.readouterr().out


def test_a_dry_run_does_not_show_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    shown, text = console()
    key = "0123456789abcdef0123456789"
    place = "ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY"
    assert command.train(["algo=grpo", "backend=cpu", f"+{place}={key}"], True, shown) == 1
    said = text.getvalue()
    assert f"{place} holds a key" in said
    assert key not in said + capsys.readouterr().out


def test_faults_of_the_arguments_are_told() -> None:
    shown, text = console()
    assert command.train(["algo=espoo"], True, shown) == 1
    assert "did you mean 'espo'?" in text.getvalue()


def test_nothing_runs_where_the_configuration_is_at_fault(scripted: type[Scripted], tmp_path: Path) -> None:
    scripted.script = f"open({str(tmp_path / 'ran')!r}, 'w')"
    shown, _ = console()
    assert command.train(["algo=grpo", f"trainer.default_local_dir={tmp_path}"], False, shown) == 1
    assert not (tmp_path / "ran").exists()


def test_nothing_runs_where_a_run_without_a_name_left_checkpoints(
    scripted: type[Scripted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.script = "raise SystemExit(0)"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints/verl_examples/gsm8k/global_step_3").mkdir(parents=True)
    arguments = ["algo=grpo", "backend=cpu", "actor_rollout_ref.actor.use_dynamic_bsz=true"]
    for dry_run in (True, False):
        shown, text = console()
        assert command.train(arguments, dry_run, shown) == 1
        assert "trainer.default_local_dir=checkpoints/verl_examples/gsm8k to go on from there" in text.getvalue()
    assert not list(tmp_path.glob("checkpoints/verl_ext"))


def test_the_childs_output_and_exit_status_are_verls(
    scripted: type[Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.script = "import os, sys; print('platform', os.environ.get('VERL_PLATFORM')); sys.exit(3)"
    shown, said = console()
    out = tmp_path / "run"
    (tmp_path / "rows.jsonl").touch()
    arguments = ["algo=grpo", "backend=cpu", f"trainer.default_local_dir={out}", "actor_rollout_ref.rollout.n=2"]
    arguments += [f"data.{key}={tmp_path}/rows.jsonl" for key in ("train_files", "val_files")]
    arguments += ["actor_rollout_ref.actor.use_dynamic_bsz=true", f"actor_rollout_ref.model.path={tmp_path}"]
    assert command.train(arguments, False, shown, verbose=True) == 3
    assert "platform cpu" in capsys.readouterr().out
    assert "platform cpu" in (out / "train.1.log").read_text()
    assert "exit status 3" in said.getvalue()


def test_verls_file_logger_writes_beside_the_log_unless_the_user_has_said_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    composed = compose(["algo=grpo", "backend=cpu"])
    for name in command.FILE_LOGGER:
        monkeypatch.delenv(name, raising=False)
    assert command.environment(composed, tmp_path)["VERL_FILE_LOGGER_PATH"] == str(tmp_path / "metrics.jsonl")
    for name in command.FILE_LOGGER:
        with monkeypatch.context() as given:
            given.setenv(name, "elsewhere")
            assert not {*command.FILE_LOGGER} & {*command.environment(composed, tmp_path)}


def test_the_command_is_verls_entry_point(sample_paper: Path) -> None:
    composed = compose(["experiment=sample/table1/megatron"])
    assert [sys.executable, *composed.command()] == [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        "--config-name",
        "ppo_megatron_trainer",
        "+experiment=sample/table1/megatron",
        "trainer.project_name=sample",
        "trainer.experiment_name=table1-megatron-seed42",
    ]
    assert command.platform(composed) == {}

"""`+algo=...` and `+backend=cpu` compose with verl's configuration, from any directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException

from tests.bridge.configurations import compose
from verl_ext import config_groups


def test_our_groups_compose_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose("+backend=cpu", "+algo=espo")
    assert config.algorithm.adv_estimator == "espo"
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "espo"
    assert config.actor_rollout_ref.actor.loss_agg_mode == "seq-mean-token-mean"
    assert config.trainer.device == "cpu"
    assert config.actor_rollout_ref.rollout.name == "vllm"


def test_a_group_that_we_do_not_have_is_an_error_that_shows_where_it_was_looked_for() -> None:
    with pytest.raises(MissingConfigException) as caught:
        compose("+algo=nothing")
    assert str(config_groups.config_dir()) in str(caught.value)
    GlobalHydra.instance().clear()


def test_the_folder_is_found_in_a_wheel_and_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "verl_ext"
    package.mkdir()
    monkeypatch.setattr(config_groups, "__file__", str(package / "config_groups.py"))
    with pytest.raises(FileNotFoundError, match="reinstall"):
        config_groups.config_dir()
    (tmp_path / "configs" / "algo").mkdir(parents=True)
    assert config_groups.config_dir() == tmp_path / "configs"
    (package / "configs" / "algo").mkdir(parents=True)
    assert config_groups.config_dir() == package / "configs"

"""What a configuration names on the disk: found here, or named with its setting; a fault only where the run starts."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from verl_ext.checks import files
from verl_ext.checks.collecting import examine
from verl_ext.train import compose

MODEL = "actor_rollout_ref.model.path"
REWARD = files.REWARD
CODE = "from os import path as joined\nlimit: int = 1\nif limit:\n    def nested(): ...\nclass Judge: ...\n"


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return compose(["algo=grpo", "backend=fsdp", "cluster=1x8", "actor_rollout_ref.rollout.n=8"]).config


@pytest.fixture
def here(base: DictConfig, tmp_path: Path) -> DictConfig:
    """A configuration whose files are all on this machine."""
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "reward.py").write_text(CODE)
    rows = str(tmp_path / "rows.jsonl")
    return changed(
        base,
        {
            MODEL: str(tmp_path / "model"),
            "data.train_files": [rows],
            "data.val_files": rows,
            f"{REWARD}.path": str(tmp_path / "reward.py"),
            f"{REWARD}.name": "nested",
        },
    )


def changed(config: DictConfig, changes: dict[str, Any]) -> DictConfig:
    config = copy.deepcopy(config)
    for key, value in changes.items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


# changes -> the setting at fault
ABSENT: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({MODEL: "/nowhere/model"}, MODEL),
    "model beside us": ({MODEL: "./nowhere"}, MODEL),
    "model in folders": ({MODEL: "outputs/models/nowhere"}, MODEL),
    "tokenizer": (
        {"actor_rollout_ref.model.tokenizer_path": "~/nowhere"},
        "actor_rollout_ref.model.tokenizer_path",
    ),
    "critic": ({"critic.enable": True, "critic.model.path": "/nowhere/critic"}, "critic.model.path"),
    "training data": ({"data.train_files": "/nowhere/train.parquet"}, "data.train_files"),
    "validation data": ({"data.val_files": ["/nowhere/validation.parquet"]}, "data.val_files"),
    "reward": ({f"{REWARD}.path": "/nowhere/reward.py"}, f"{REWARD}.path"),
    "reward in a package": ({f"{REWARD}.path": "pkg://verl_ext.rewards.nowhere"}, f"{REWARD}.path"),
    "reward in no package": ({f"{REWARD}.path": "pkg://nowhere_at_all.rewards"}, f"{REWARD}.path"),
    "function": ({f"{REWARD}.name": "nestet"}, f"{REWARD}.name"),
    "function of a package": (
        {f"{REWARD}.path": "pkg://verl_ext/rewards/math", f"{REWARD}.name": "compute_scores"},
        f"{REWARD}.name",
    ),
    "manager": ({"reward.reward_manager.module.path": "/nowhere/manager.py"}, "reward.reward_manager.module.path"),
    "data set": ({"data.custom_cls.path": "/nowhere/data.py"}, "data.custom_cls.path"),
}


@pytest.mark.parametrize("case", ABSENT)
def test_what_is_not_here_is_named_with_its_setting(case: str, here: DictConfig) -> None:
    changes, key = ABSENT[case]
    (found,) = files.absent(changed(here, changes)).items()
    assert found[0] == key
    assert found[1].startswith(f"{key}=")
    assert "did you mean" in found[1] if key.endswith("name") else "not on this machine" in found[1]


# Names on a hub, other protocols, files behind a prefix, and what a class of one's own reads.
FINE: tuple[dict[str, Any], ...] = (
    {},
    {MODEL: "Qwen/Qwen3-8B"},
    {MODEL: "hdfs://there/model"},
    {"data.train_files": "hdfs://there/train.parquet"},
    {f"{REWARD}.path": None},
    {f"{REWARD}.path": "pkg://verl_ext.rewards.math", f"{REWARD}.name": "compute_score"},
    {f"{REWARD}.name": "joined"},
    {f"{REWARD}.name": "Judge"},
    {f"{REWARD}.name": "limit"},
    {"data.custom_cls.path": "pkg://verl_ext.rewards.math", "data.train_files": "a folder"},
)


@pytest.mark.parametrize("changes", FINE)
def test_what_is_here_or_may_be_elsewhere_is_not(changes: dict[str, Any], here: DictConfig) -> None:
    assert files.absent(changed(here, changes)) == {}


def test_a_file_that_is_not_python(here: DictConfig, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("def compute_score(:\n")
    assert "not Python: invalid syntax in line 1" in files.absent(here)[f"{REWARD}.path"]


def test_a_module_of_the_working_directory_is_found(
    here: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As verl's entry point finds it; ``verl-ext`` itself has no working directory in its path."""
    monkeypatch.chdir(tmp_path)
    found = changed(here, {f"{REWARD}.path": "pkg://reward"})
    assert files.absent(found) == {}


@pytest.mark.parametrize("code", ["from os import *", "globals()['f'] = 1", "def __getattr__(name): ...", "exec('')"])
def test_names_that_only_running_would_tell(code: str) -> None:
    assert files.defined(ast.parse(code)) is None


def test_it_is_a_note_before_and_a_fault_at_the_start(here: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    bad = changed(here, ABSENT["model"][0])
    before, start = examine(bad), examine(bad, start=True)
    assert before.faults == [] == start.notes
    assert [MODEL in note for note in before.notes] == [True]
    assert start.faults == before.notes


@pytest.mark.parametrize("how", ["configuration", "environment"])
def test_on_a_cluster_they_may_lie_where_the_run_is(
    how: str, here: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379" if how == "environment" else "")
    address = {"ray_kwargs.ray_init.address": "auto"} if how == "configuration" else {}
    found = examine(changed(here, {**ABSENT["model"][0], **address}), start=True)
    assert found.faults == []
    assert [MODEL in note for note in found.notes] == [True]

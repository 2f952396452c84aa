"""Rows of tables are Hydra configs under experiment/, for verl's own entry point as well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException

from tests.bridge import configurations
from tests.bridge.configurations import compose
from verl_ext.composing.row_source import RowSource
from verl_ext.recipe_files.recipe import RecipeError, all_tables

ROW = "+experiment=sample/table1/sspo_1_5b"


@pytest.fixture(autouse=True)
def _composed_anew() -> Iterator[None]:
    """Each test has papers and groups of its own: nothing that was composed with others is the same."""
    configurations._composed.cache_clear()
    yield
    configurations._composed.cache_clear()


@pytest.fixture
def source(sample_paper: Path) -> RowSource:
    return RowSource("verl_ext", "verl-ext://rows")


def test_a_row_composes_on_verls_own_config(sample_paper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample_paper)
    config = compose(ROW)
    assert config.trainer.nnodes * config.trainer.n_gpus_per_node == 8  # cluster 1x8
    assert config.actor_rollout_ref.actor.entropy_from_logits_with_chunking is True  # backend fsdp
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-Math-1.5B"
    assert config.actor_rollout_ref.actor.policy_loss._target_ == "verl_ext.config.SSPOLossConfig"
    assert config.actor_rollout_ref.actor.policy_loss.beta == 0.7
    assert config.data.train_batch_size == 512
    assert config.trainer.logger == ["console"]


def test_a_choice_of_the_row_is_overridden_like_any_other(sample_paper: Path) -> None:
    config = compose(ROW, "algo=gspo", "cluster=2x8")
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"
    assert config.trainer.nnodes == 2
    assert config.data.train_batch_size == 512  # the row's own override


def test_the_rows_override_wins_over_its_experiment_and_that_over_its_algo(
    sample_paper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = sample_paper.parent / "configs"
    (ours / "experiment").mkdir(parents=True)
    (ours / "algo").mkdir()
    (ours / "algo" / "sspo.yaml").write_text("# @package _global_\ndata: {seed: 1, shuffle: false, image_key: a}\n")
    (ours / "experiment" / "sspo.yaml").write_text(
        "# @package _global_\ndata: {seed: 2, image_key: b, train_batch_size: 7}\n"
    )
    for group, option in (
        ("backend", "fsdp"),
        ("cluster", "1x8"),
        ("model", "qwen2_5_math_1_5b"),
        ("data", "math_l3to5"),
    ):
        (ours / group).mkdir()
        (ours / group / f"{option}.yaml").write_text(
            "# @package _global_\ndata: {seed: 0, image_key: c, video_key: d}\n"
        )
    monkeypatch.setattr("verl_ext.composing.search_path.config_dir", lambda: ours)
    data = compose(ROW).data
    assert (data.seed, data.shuffle, data.image_key, data.video_key) == (2, False, "b", "d")
    assert data.train_batch_size == 512


def test_a_megatron_row_composes_on_the_plain_trainer(sample_paper: Path) -> None:
    config = compose("+experiment=sample/table1/megatron")
    assert config.actor_rollout_ref.actor.strategy == "megatron"
    assert config.actor_rollout_ref.actor._target_ == "verl.workers.config.McoreActorConfig"
    assert config.actor_rollout_ref.ref.megatron.tensor_model_parallel_size == 4


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("again", "use experiment=sample/table1/sspo_1_5b"),
        ("base", "verl-ext eval"),
        ("gain", "verl-ext tables run sample/table1"),
    ],
)
def test_a_row_that_is_not_trained_says_what_to_use(sample_paper: Path, row: str, told: str) -> None:
    with pytest.raises(HydraException, match=told):
        compose(f"+experiment=sample/table1/{row}")


def test_an_unknown_row_lists_those_there_are(sample_paper: Path) -> None:
    with pytest.raises(HydraException) as caught:
        compose("+experiment=sample/table1/sspo_15b")
    listed = str(caught.value).split("Available options in 'experiment':")[1].split("Config search path")[0].split()
    assert {"sample/table1/megatron", "sample/table1/sspo_1_5b", "sspo"} <= {*listed}
    assert "sample/table1/base" not in listed
    assert "verl-ext://rows" in str(caught.value)


def test_a_fault_of_the_table_is_a_message(sample_paper: Path) -> None:
    file = sample_paper / "sample" / "tables" / "table1.yaml"
    file.write_text(file.read_text().replace("kind: evaluate", "kind: evaluated"))
    with pytest.raises(HydraException, match="evaluated") as caught:
        compose(ROW)
    assert isinstance(caught.value.__cause__, RecipeError)


def test_groups_and_configs_are_listed(source: RowSource) -> None:
    assert source.list("", None) == ["experiment"]
    assert source.list("experiment", ObjectType.GROUP) == ["sample"]
    assert source.list("experiment", ObjectType.CONFIG) == ["sample/table1/megatron", "sample/table1/sspo_1_5b"]
    assert source.list("experiment/sample", None) == ["table1"]
    assert source.list("experiment/sample/table1", ObjectType.CONFIG) == ["megatron", "sspo_1_5b"]
    assert source.list("algo", None) == []
    groups = ["", "experiment", "experiment/sample", "experiment/sample/table1"]
    assert all(map(source.is_group, groups))
    assert not any(map(source.is_group, ["algo", "experiment/other", "experiment/sample/table2", f"{groups[-1]}/base"]))
    assert source.is_config("experiment/sample/table1/sspo_1_5b.yaml")
    assert not any(map(source.is_config, ["experiment/sample/table1", "experiment/sample/table1/x", "algo/espo"]))


def test_no_table_is_read_before_hydra_asks_for_a_row(sample_paper: Path) -> None:
    (sample_paper / "sample" / "tables" / "table1.yaml").write_text("not a table")
    assert compose("+algo=espo").algorithm.adv_estimator == "espo"


def test_verls_own_entry_point_finds_a_row_from_any_directory(tmp_path: Path) -> None:
    row = next(row for table in all_tables() for row in table.rows if row.kind == "train")
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--cfg", "job", f"+experiment={row.reference}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    text = result.stdout[result.stdout.index("\nactor_rollout_ref:") :]
    assert yaml.safe_load(text)["actor_rollout_ref"]["rollout"]["name"] == "vllm"

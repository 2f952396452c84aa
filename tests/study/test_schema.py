"""study.yaml: order of the runs, what each is called with, all faults at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.sample import SMALL, written
from verl_ext.recipe_files.reader import RecipeError
from verl_ext.recipe_files.recipe import recipes_dir
from verl_ext.study.schema import read

STUDY = recipes_dir() / "cpu_study"


def test_the_tuning_comes_first_then_every_method_with_the_first_seed(tmp_path: Path) -> None:
    study = read(written(tmp_path))
    assert [cell.name for cell in study.cells()] == [
        "tiny_dense/narrow-seed0", "tiny_dense/wide-seed0",
        "tiny_dense/gspo-seed1", "tiny_dense/espo-seed1", "tiny_moe/gspo-seed1",
        "tiny_dense/gspo-seed2", "tiny_dense/espo-seed2", "tiny_moe/gspo-seed2",
    ]  # fmt: skip
    assert [cell.name for cell in study.compared()] == [cell.name for cell in study.cells()[2:]]


def test_a_cell_names_its_choices_seeds_and_overrides_and_no_path(tmp_path: Path) -> None:
    cell = read(written(tmp_path)).compared()[0]
    assert cell.arguments() == [
        "backend=cpu", "data=demo_arithmetic", "experiment=cpu_study", "model=tiny_dense", "algo=gspo",
        "data.seed=1", "actor_rollout_ref.rollout.seed=1", "actor_rollout_ref.actor.data_loader_seed=1",
        "actor_rollout_ref.actor.clip_ratio_low=1e-3",
    ]  # fmt: skip
    assert cell.result_file == tmp_path / "results/tiny_dense/gspo-seed1.json"


def test_a_candidate_has_the_algorithm_of_the_tuned_method_and_a_folder_of_its_own(tmp_path: Path) -> None:
    cell = read(written(tmp_path)).cells()[1]
    assert cell.arguments()[4:] == [
        "algo=gspo", "data.seed=0", "actor_rollout_ref.rollout.seed=0", "actor_rollout_ref.actor.data_loader_seed=0",
        "a.b=1",
    ]  # fmt: skip
    assert cell.result_file == tmp_path / "tuning/tiny_dense/wide-seed0.json"


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    methods = {**SMALL["methods"], "espo": {"label": "ESPO", "colour": "red"}}
    models = {"tiny_dense": ["gspo", "gspo", "grpo"], "tiny_moe": []}
    tuning = {**SMALL["tuning"], "method": "sspo"}
    with pytest.raises(RecipeError) as caught:
        read(written(tmp_path, methods=methods, models=models, tuning=tuning, seeds=[1, "x"]))
    text = str(caught.value)
    for fault in (
        "methods.espo: algo must be given",
        "methods.espo: colour not known",
        "models.tiny_dense with the same name: gspo",
        "models.tiny_dense: no such method: grpo",
        "models.tiny_moe must be a list of methods",
        "tuning: method sspo is not one of gspo, espo",
        "seeds must be whole numbers",
    ):
        assert fault in text, text


def test_a_folder_without_a_study_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is no study: it has no study\.yaml"):
        read(tmp_path)


def test_ours_has_every_method_that_its_issue_names_and_three_seeds() -> None:
    study = read(STUDY)
    assert len(study.seeds) >= 3
    dense = {"grpo", "clip_higher", "gspo", "gspo_tuned", "espo", "sspo", "tepo", "erpo", "steer", "clip_cov", "kl_cov"}
    assert dense <= set(study.models["tiny_dense"])
    assert {"grpo", "gspo", "espo", "sspo"} <= set(study.models["tiny_moe"])


@pytest.mark.parametrize("cell", [cell for cell in read(STUDY).cells() if cell.seed <= 1], ids=lambda cell: cell.name)
def test_ours_composes_and_passes_the_checks(cell) -> None:  # type: ignore[no-untyped-def]
    from verl_ext.train import check, compose

    composed = compose([*cell.arguments(), "actor_rollout_ref.model.path=/model"])
    faults = [fault for fault in check(composed.config) if "/model" not in fault and "parquet" not in fault]
    assert not faults
    assert composed.config.data.seed == composed.config.actor_rollout_ref.rollout.seed == cell.seed
    assert composed.config.trainer.total_training_steps == 24
    assert composed.config.verl_ext.export.every == 1


def test_the_tuned_range_is_that_of_the_best_candidate() -> None:
    from verl_ext.study.results import Result

    study = read(STUDY)
    assert study.tuning is not None
    cells = study.cells()[: len(study.tuning.candidates)]
    done = {cell.method: Result.read(cell.result_file).validation["accuracy"][-1] for cell in cells}
    best = max(done, key=lambda method: done[method])
    assert study.methods[study.tuning.method].overrides == best.overrides

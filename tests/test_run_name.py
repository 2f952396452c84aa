"""What a run is called when nobody has chosen a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from tests.bridge.configurations import RUNNABLE, VERL_CONFIGS
from verl_ext.bridge import driver
from verl_ext.run import name as run_name
from verl_ext.train import compose

PLAIN = {
    "trainer": {
        **run_name.VERLS,
        "default_local_dir": "checkpoints/${trainer.project_name}/${trainer.experiment_name}",
        "resume_mode": "auto",
    },
    "algorithm": {"adv_estimator": "grpo"},
    "actor_rollout_ref": {
        "model": {"path": "/models/Qwen2.5-3B"},
        "actor": {"policy_loss": {"loss_mode": "vanilla"}, "data_loader_seed": 42},
        "rollout": {"seed": 42},
    },
    "data": {"train_files": "/data/math/boxed.parquet", "seed": None},
}


def plain(**trainer: str) -> DictConfig:
    """verl's keys that names are made of, with verl's own names."""
    config = OmegaConf.merge(PLAIN, {"trainer": trainer})
    OmegaConf.set_struct(config, True)
    assert isinstance(config, DictConfig)
    return config


ROW = {"experiment": "sspo/table1/sspo_1_5b", "algo": "sspo"}


@pytest.mark.parametrize(
    ("choices", "overrides", "project", "experiment"),
    [
        ({}, [], "verl_ext", "grpo-vanilla-Qwen2.5-3B-math-boxed-seed42"),
        ({"algo": "clip_higher"}, ["+algo=clip_higher"], "verl_ext", "clip_higher-Qwen2.5-3B-math-boxed-seed42"),
        ({"experiment": "sspo", "algo": "sspo"}, [], "sspo", "sspo-Qwen2.5-3B-math-boxed-seed42"),
        (ROW, ["+experiment=sspo/table1/sspo_1_5b"], "sspo", "table1-sspo_1_5b-seed42"),
        ({**ROW, "algo": "grpo"}, ["algo=grpo"], "sspo", "table1-sspo_1_5b-grpo-seed42"),
        (ROW, ["actor_rollout_ref.model.path=/x"], "sspo", "table1-sspo_1_5b-Qwen2.5-3B-seed42"),
        (ROW, ["data@_global_=math_l3to5"], "sspo", "table1-sspo_1_5b-math-boxed-seed42"),
        (ROW, ["++data.train_files=x"], "sspo", "table1-sspo_1_5b-math-boxed-seed42"),
    ],
)
def test_a_name_tells_row_or_method_model_data_and_seed(
    choices: dict[str, str], overrides: list[str], project: str, experiment: str
) -> None:
    assert run_name.made(plain(), choices, overrides) == {"project_name": project, "experiment_name": experiment}


def test_each_seed_and_each_number_of_files_has_a_name() -> None:
    config = plain()
    config.data.seed, config.actor_rollout_ref.rollout.seed = 1, 7
    config.data.train_files = ["/data/a b/x.jsonl", "y.jsonl"]
    assert run_name.made(config, {}, [])["experiment_name"] == "grpo-vanilla-Qwen2.5-3B-a_b-x-2files-seed1-7-42"


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_what_was_chosen_stays(sign: str) -> None:
    """Also where somebody chooses what verl has by default, or a file of his own does."""
    config = plain(project_name="mine")
    assert run_name.give(config, {}, [f"{sign}trainer.experiment_name=gsm8k"]) == {}
    assert config.trainer.default_local_dir == "checkpoints/mine/gsm8k"


def checkpoint(root: Path) -> Path:
    (root / "global_step_4").mkdir(parents=True)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder_faults(choices: dict[str, str] | None = None, **trainer: str) -> list[str]:
    """After names have been given."""
    config = plain(**trainer)
    run_name.give(config, choices or {}, [])
    return run_name.folder_faults(config, choices or {}, [])


@pytest.mark.usefixtures("here")
def test_checkpoints_under_verls_name_are_a_fault_until_somebody_chooses() -> None:
    assert folder_faults() == []
    old, new = "checkpoints/verl_examples/gsm8k", "checkpoints/verl_ext/grpo-vanilla-Qwen2.5-3B-math-boxed-seed42"
    checkpoint(Path(old))
    (fault,) = folder_faults()
    for setting in (old, new):
        assert f"trainer.default_local_dir={setting} " in fault
        assert folder_faults(default_local_dir=setting) == []
    assert folder_faults(experiment_name="mine", project_name="mine") == []
    assert folder_faults(resume_mode="disable") == []
    checkpoint(Path(new))
    assert folder_faults() == []


@pytest.mark.usefixtures("here")
def test_half_a_name_of_ones_own_moves_the_folder_too() -> None:
    checkpoint(Path("checkpoints/verl_examples/mine"))
    (fault,) = folder_faults(experiment_name="mine")
    assert "trainer.default_local_dir=checkpoints/verl_examples/mine " in fault


@pytest.mark.usefixtures("here")
def test_the_demos_rows_shared_a_name() -> None:
    checkpoint(Path("checkpoints/verl_ext_demo/demo"))
    (fault,) = folder_faults({"experiment": "demo/table1/grpo"}, project_name="verl_ext_demo")
    assert "checkpoints/verl_ext_demo/table1-grpo-seed42 holds no checkpoint" in fault
    assert "trainer.default_local_dir=checkpoints/verl_ext_demo/demo " in fault


@pytest.fixture
def _hydra() -> Iterator[None]:
    """Hydra is left as it was."""
    yield
    HydraConfig.instance().cfg = None


def entered(*overrides: str) -> DictConfig:
    """What verl's entry point has when it calls `validate_config`."""
    with initialize_config_dir(str(VERL_CONFIGS), version_base=None):
        config = hydra_compose("ppo_trainer", [*overrides, *RUNNABLE], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.mark.usefixtures("here", "_hydra")
def test_the_stock_entry_point_gives_the_name_that_ours_does(capsys: pytest.CaptureFixture[str]) -> None:
    ours = compose(["experiment=demo/table1/grpo", "algo=espo"])
    theirs = entered("+experiment=demo/table1/grpo", "algo=espo")
    assert driver.named(theirs) == []
    folder = "checkpoints/verl_ext_demo/table1-grpo-espo-seed42"
    assert f"this run is verl_ext_demo/table1-grpo-espo-seed42, kept in {folder}\n" in capsys.readouterr().err
    assert theirs.trainer == ours.config.trainer
    typed = entered(*ours.command()[4:])
    assert typed.trainer == ours.config.trainer  # already, before anything is given
    checkpoint(Path("checkpoints/verl_ext_demo/demo"))
    assert driver.named(typed) == driver.named(theirs) == ours.folder_faults()
    assert len(ours.folder_faults()) == 1


@pytest.mark.usefixtures("_hydra")
def test_a_run_without_a_group_of_ours_is_left_alone() -> None:
    config = entered("actor_rollout_ref.rollout.name=vllm")
    assert driver.named(config) == []
    assert config.trainer.experiment_name == run_name.VERLS["experiment_name"]

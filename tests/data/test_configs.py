"""The data group composes on verl's trainers, and names the files that `prepare` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.configurations import compose
from verl_ext.bridge import search_path
from verl_ext.data.prepare import paths
from verl_ext.data.registry import DATASETS

CHOICES = {"demo_arithmetic": "demo_arithmetic", "math_l3to5": "math500", "dapo_math_17k": "aime24"}


def test_every_training_set_has_a_choice() -> None:
    files = {file.stem for file in (search_path.config_dir() / "data").glob("*.yaml")}
    assert files == {name for name, dataset in DATASETS.items() if dataset.kind != "benchmark"} == set(CHOICES)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_name_what_prepare_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # verl has a group `data` of its own; ours is chosen into the whole configuration.
    config = compose(f"+{search_path.hydra_name('data')}={name}")
    template = DATASETS[name].template
    # The folder is looked up when a value is read, so one composition shows both.
    for folder in (None, "/data/rl"):
        monkeypatch.delenv("VERL_EXT_DATA", raising=False)
        if folder is not None:
            monkeypatch.setenv("VERL_EXT_DATA", folder)
        out = Path(folder or "outputs/data")
        assert config.data.train_files == str(paths(name, template, out).train)
        assert config.data.val_files == str(paths(CHOICES[name], template, out).parquet)
    assert config.reward.custom_reward_function.path == "pkg://verl_ext.rewards.math"
    assert config.reward.custom_reward_function.name == "compute_score"
    # verl's own value: nothing else is touched.
    assert config.data.train_batch_size == 1024

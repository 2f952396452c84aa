"""The data group composes on verl's trainers, and names the files that `prepare` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.configurations import compose
from verl_ext import config_groups as groups
from verl_ext.composing.compose import ConfigError, options
from verl_ext.data.prepare import paths
from verl_ext.data.registry import datasets
from verl_ext.train import compose as compose_ours

VALIDATED_ON = {name: one.validation or name for name, one in datasets().items() if one.kind != "benchmark"}


def test_every_training_set_is_a_choice_and_no_benchmark_is() -> None:
    assert options("data") == sorted(VALIDATED_ON)
    assert {"gsm8k": "gsm8k", "math_l3to5": "math500", "dapo_math_17k": "aime24"}.items() <= VALIDATED_ON.items()
    with pytest.raises(ConfigError, match="data=aime24: no such data"):
        compose_ours(["algo=grpo", "data=aime24"])


@pytest.mark.parametrize("name", VALIDATED_ON)
def test_choices_name_what_prepare_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # verl has a group `data` of its own; ours is chosen into the whole configuration.
    config = compose(f"+{groups.hydra_name('data')}={name}")
    template = datasets()[name].template
    # The folder is looked up when a value is read, so one composition shows both.
    for folder in (None, "/data/rl"):
        monkeypatch.delenv("VERL_EXT_DATA", raising=False)
        if folder is not None:
            monkeypatch.setenv("VERL_EXT_DATA", folder)
        out = Path(folder or "outputs/data")
        assert config.data.train_files == str(paths(name, template, out).train)
        assert config.data.val_files == str(paths(VALIDATED_ON[name], template, out).parquet)
    assert config.reward.custom_reward_function.path == "pkg://verl_ext.rewards.math"
    assert config.reward.custom_reward_function.name == "compute_score"
    # verl's own value: nothing else is touched.
    assert config.data.train_batch_size == 1024

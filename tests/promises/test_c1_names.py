"""C1: everything that we compose has a name and a folder of its own, and no job starts from 0 without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import verl.utils.config
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from tests.bridge.configurations import RUNNABLE, VERL_CONFIGS
from verl_ext.train import compose


def test_rows_and_presets_keep_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [compose([f"experiment=sspo/table1/{row}"]) for row in ("sspo_1_5b", "gspo_1_5b")]
    folders = [str(row.config.trainer.default_local_dir) for row in rows]
    assert folders == ["checkpoints/sspo/table1-sspo_1_5b-seed42", "checkpoints/sspo/table1-gspo_1_5b-seed42"]
    assert f"trainer.experiment_name={Path(folders[0]).name}" in rows[0].command()

    # verl's own entry point on the CPU, in a folder with the checkpoints of a run of an earlier verl_ext
    (tmp_path / "checkpoints/verl_examples/gsm8k/global_step_3").mkdir(parents=True)
    with initialize_config_dir(str(VERL_CONFIGS), version_base=None):
        chosen = ["+backend=cpu", "+algo=grpo", "data.seed=42", *RUNNABLE]
        config = hydra_compose("ppo_trainer", chosen, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    try:
        with pytest.raises(ValueError, match="=checkpoints/verl_examples/gsm8k to go on"):
            verl.utils.config.validate_config(config=config, use_reference_policy=False, use_critic=False)
    finally:
        HydraConfig.instance().cfg = None
    assert config.trainer.experiment_name == "grpo-deepseek-llm-7b-chat-gsm8k-train-seed42"

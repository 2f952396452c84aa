"""A reward that could never work ends the run before Ray starts; one that pays nothing for a right answer is told."""

from __future__ import annotations

import json

import pytest
import ray
import verl.utils.config
from omegaconf import DictConfig

from tests.bridge.configurations import compose
from verl_ext.composing.errors import ConfigError

REWARDS = """
def without_verified(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(ground_truth in solution_str)}

def always_zero(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": 0.0, "verified": True}

def raises(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": extra_info["of_another_data_set"], "verified": True}

def returns_text(data_source, solution_str, ground_truth, extra_info=None):
    return "1.0"
"""
ROW = {
    "data_source": "mine",
    "prompt": [{"role": "user", "content": "2+2? Answer within \\boxed{}."}],
    "reward_model": {"style": "rule", "ground_truth": "4"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """ESPO with a model and data that are here; the reward is chosen by each test."""
    folder = tmp_path_factory.mktemp("reward")
    (folder / "reward.py").write_text(REWARDS)
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    files = [f"data.{key}={folder}/rows.jsonl" for key in ("train_files", "val_files")]
    reward = f"reward.custom_reward_function.path={folder}/reward.py"
    return compose("+backend=cpu", "+algo=espo", *files, f"actor_rollout_ref.model.path={folder}", reward)


def start(config: DictConfig, function: str) -> None:
    """What verl's entry point does before it starts Ray."""
    config.reward.custom_reward_function.name = function
    verl.utils.config.validate_config(config=config, use_reference_policy=False, use_critic=False)


@pytest.mark.parametrize(
    ("function", "part"),
    [
        ("without_verified", "no `verified`, which espo (estimator) needs"),
        ("raises", "KeyError: 'of_another_data_set' (reward.py, line 9)"),
        ("returns_text", "it returns str '1.0', not a number"),
        ("absent", "reward.custom_reward_function.name=absent: not defined in"),
    ],
)
def test_a_reward_that_could_never_work_ends_before_ray(config: DictConfig, function: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        start(config, function)
    assert part in str(caught.value)
    assert not ray.is_initialized()


def test_a_reward_of_zero_is_told_at_the_start(
    config: DictConfig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verl_ext.bridge.probe.arrange", lambda config: None)
    start(config, "always_zero")
    said = capfd.readouterr().err
    assert "verl_ext: note: " in said
    assert "gives 0 for '\\\\boxed{4}'" in said

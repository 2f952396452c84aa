"""Hyper-parameter classes as hydra and verl instantiate them."""

import inspect
import json
import pickle
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import FSDPActorConfig, PolicyLossConfig

from verl_ext import plugin
from verl_ext.config import ESPOAdvantageConfig, ESPOLossConfig

TARGET = {"_target_": "verl_ext.config.ESPOLossConfig"}


def build(**keys: Any) -> ESPOLossConfig:
    return omega_conf_to_dataclass(OmegaConf.create({**TARGET, **keys}))


def fault(**keys: Any) -> str:
    with pytest.raises(InstantiationException) as raised:
        build(**keys)
    return str(raised.value.__cause__)


def test_defaults_are_those_of_the_method() -> None:
    config = build()
    assert isinstance(config, PolicyLossConfig)
    assert config.loss_mode == config.get("loss_mode") == "espo"
    assert config.resolved() == {
        "grouping": "quantile",
        "entropy_quantiles": [0.8],
        "entropy_thresholds": [],
        "token_ratio": "detached",
        "clip": "adaptive",
        "alpha": 0.1,
    }


@pytest.mark.parametrize("method", [*plugin.POLICY_LOSSES.values(), *plugin.ESTIMATORS.values()], ids=repr)
def test_defaults_of_class_and_function_agree(method: Any) -> None:
    signature = inspect.signature(method.implementation).parameters
    for name, default in method.config_type().defaults().items():
        given = signature[name].default
        assert (list(given) if isinstance(given, tuple) else given) == default, name


def test_lists_and_numbers_take_their_final_type() -> None:
    for convert in ("none", "partial", "all"):  # with "none" hydra hands over a ListConfig
        config = instantiate(
            OmegaConf.create({**TARGET, "entropy_quantiles": [0.5, 0.8], "alpha": 1}), _convert_=convert
        )
        assert type(config.entropy_quantiles) is list
        assert type(config.alpha) is float
        assert json.loads(json.dumps(config.resolved()))["entropy_quantiles"] == [0.5, 0.8]


def test_inside_verls_actor_with_verls_own_keys() -> None:
    actor = omega_conf_to_dataclass(
        OmegaConf.create(
            {
                "_target_": "verl.workers.config.FSDPActorConfig",
                "rollout_n": 1,
                "ppo_micro_batch_size_per_gpu": 1,
                "policy_loss": {
                    **TARGET,
                    "loss_mode": "espo",
                    "clip_cov_ratio": 0.1,
                    "dro_beta": None,
                    "alpha": 0.3,
                },
            }
        )
    )
    assert isinstance(actor, FSDPActorConfig)
    assert isinstance(actor.policy_loss, ESPOLossConfig)
    assert actor.policy_loss.alpha == 0.3
    assert actor.policy_loss.clip_cov_ratio == 0.1


def test_by_dataclass_type_and_through_pickle() -> None:
    config = omega_conf_to_dataclass(OmegaConf.create({"alpha": 0.3}), ESPOLossConfig)
    assert config.alpha == 0.3
    assert pickle.loads(pickle.dumps(config)) == config


def test_resolved_is_a_copy() -> None:
    config = build()
    config.resolved()["entropy_quantiles"].append(0.9)
    assert config.resolved()["entropy_quantiles"] == [0.8]
    assert build().entropy_quantiles == [0.8]


def test_unknown_keys_name_the_nearest() -> None:
    text = fault(alhpa=0.2, clip_cov_ration=1, zebra=3)
    assert "actor_rollout_ref.actor.policy_loss (ESPOLossConfig)" in text
    assert "unknown key 'alhpa'; did you mean 'alpha'?" in text
    assert "unknown key 'clip_cov_ration'; did you mean 'clip_cov_ratio'?" in text
    assert "unknown key 'zebra'; espo reads grouping, entropy_quantiles" in text


def test_all_faults_at_once() -> None:
    text = fault(alhpa=1, alpha=-1, clip="fxed", loss_mode="vanilla", grouping="threshold")
    assert text.count("\n  - ") == 5
    for part in (
        "'alhpa'",
        "alpha=-1 must be a finite number >= 0",
        "clip='fxed' must be one of adaptive, fixed; did you mean 'fixed'?",
        "loss_mode='vanilla'",
        "entropy_thresholds",
    ):
        assert part in text


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", True, None, [0.1]])
def test_alpha_out_of_range(value: Any) -> None:
    assert "must be a finite number >= 0" in fault(alpha=value)


@pytest.mark.parametrize("value", [0.8, "0.8", [0.0], [1.0], [0.8, 0.5], [0.5, 0.5], ["0.5"], [True], None])
def test_quantiles_out_of_range(value: Any) -> None:
    assert "must be a list of ascending numbers, each > 0 and < 1" in fault(entropy_quantiles=value)


@pytest.mark.parametrize("key", ["grouping", "token_ratio", "clip"])
@pytest.mark.parametrize("value", ["nonsense", 1, None])
def test_names_outside_their_list(key: str, value: Any) -> None:
    assert f"{key}={value!r} must be one of" in fault(**{key: value})


def test_a_loss_mode_that_would_ignore_the_keys_is_refused() -> None:
    """verl's YAML sets loss_mode to vanilla: with `_target_` alone, another loss would run."""
    assert "set actor_rollout_ref.actor.policy_loss.loss_mode=espo" in fault(loss_mode="vanilla")


def test_keys_that_contradict_each_other() -> None:
    assert "needs at least one number in entropy_quantiles" in fault(entropy_quantiles=[])
    assert "needs at least one number, in nats" in fault(grouping="threshold")
    assert "not read with grouping=quantile" in fault(entropy_thresholds=[1.0])
    assert build(grouping="threshold", entropy_thresholds=[0.5, 2]).resolved()["entropy_thresholds"] == [
        0.5,
        2.0,
    ]


def test_positional_arguments_are_checked_as_well() -> None:
    with pytest.raises(ValueError, match="failed='sometimes' must be one of unverified, incorrect"):
        ESPOAdvantageConfig("sometimes")
    assert ESPOAdvantageConfig("incorrect").resolved() == {"failed": "incorrect"}


def test_naming_a_class_installs_the_plugin_where_discovery_is_off() -> None:
    import os
    import subprocess
    import sys

    code = """
import verl, sys
assert not any(name.startswith("verl_ext") for name in sys.modules)
import verl_ext.config
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
print("espo" in POLICY_LOSS_REGISTRY, "espo" in ADV_ESTIMATOR_REGISTRY)
"""
    env = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("True True"), done.stderr[-2000:]

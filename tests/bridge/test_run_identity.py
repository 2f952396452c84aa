"""A run's identity out of verl's own configurations."""

from __future__ import annotations

import json

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from tests.bridge.configurations import compose
from verl_ext import plugin
from verl_ext.bridge import run_identity
from verl_ext.run.checkpoint.identity import Identity, changes


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return compose("+backend=cpu", "+algo=espo", "data.train_files=[/a.parquet,/b.parquet]")


@pytest.mark.parametrize("name", ["vanilla", "clip_cov", *plugin.POLICY_LOSSES])
def test_every_loss_comes_out_of_json_as_it_went_in(config: DictConfig, name: str) -> None:
    actor = config.actor_rollout_ref.actor.copy()
    with open_dict(actor):
        actor.policy_loss = {"loss_mode": name}
        actor.loss_agg_mode = (
            plugin.POLICY_LOSSES[name].aggregations[0] if name in plugin.POLICY_LOSSES else "token-mean"
        )
    found = Identity({"loss": run_identity.loss(actor)})
    assert changes(found, Identity.from_json(json.loads(json.dumps(found.as_json())))) == []
    own = plugin.POLICY_LOSSES[name].resolve(actor.policy_loss) if name in plugin.POLICY_LOSSES else {}
    assert found.parts["loss"].settings.keys() >= {*own, "clip_ratio_low", "loss_agg_mode", "kl_loss_coef"}


@pytest.mark.parametrize("name", ["grpo", *plugin.ESTIMATORS])
def test_every_estimator_comes_out_of_json_as_it_went_in(config: DictConfig, name: str) -> None:
    algorithm = OmegaConf.merge(config.algorithm, {"adv_estimator": name})
    found = Identity({"estimator": run_identity.estimator(algorithm)})
    assert changes(found, Identity.from_json(json.loads(json.dumps(found.as_json())))) == []
    own = plugin.ESTIMATORS[name].resolve(algorithm) if name in plugin.ESTIMATORS else {}
    assert found.parts["estimator"].settings.keys() >= {*own, "gamma", "norm_adv_by_std_in_grpo"}


def test_a_whole_configuration_where_nothing_lies_on_this_machine(config: DictConfig) -> None:
    found = run_identity.of(config)
    assert (found.parts["data"].name, found.parts["data"].key, found.files) == ("/a.parquet, /b.parquet", None, {})
    assert found.parts["model"].key is None
    assert found.parts["loss"].settings["alpha"] == plugin.POLICY_LOSSES["espo"].resolve({})["alpha"]
    assert found.parts["optimizer"].settings["betas"] == [0.9, 0.999]
    assert "total_training_steps" not in found.parts["optimizer"].settings
    # What the trainer gets, and a manifest holds.
    resolved = config.copy()
    OmegaConf.resolve(resolved)
    again = Identity.from_json(json.loads(json.dumps(found.as_json())))
    assert again == run_identity.of(resolved)


def test_megatrons_optimizer_has_a_name_too() -> None:
    found = run_identity.of(compose("+backend=megatron", "+algo=espo", name="ppo_megatron_trainer"))
    assert (found.parts["optimizer"].name, found.parts["adapter"].name) == ("adam", "no LoRA")

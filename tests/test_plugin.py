"""The table, the adapters, and the symbols of verl that they stand on."""

import doctest
import inspect
import json
import pkgutil
from dataclasses import fields
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
import verl.workers.utils.losses as verl_losses
from omegaconf import OmegaConf
from verl.trainer.ppo import core_algos

from tests.losses.batches import VOCAB, actor_config, random_batch
from verl_ext import advantages, losses, plugin, register
from verl_ext.config import ESPOLossConfig
from verl_ext.context import MissingTokenData, TokenContext, token_context
from verl_ext.losses.common import AGGREGATIONS, GlobalBatch
from verl_ext.losses.espo import espo_loss

LOSSES, ESTIMATORS = core_algos.POLICY_LOSS_REGISTRY, core_algos.ADV_ESTIMATOR_REGISTRY


@pytest.fixture(autouse=True)
def registered() -> None:
    register()


def test_verl_finds_every_method_by_name() -> None:
    register()
    for name, loss in plugin.POLICY_LOSSES.items():
        assert core_algos.get_policy_loss_fn(name) is loss
    for name, estimator in plugin.ESTIMATORS.items():
        assert core_algos.get_adv_estimator_fn(name) is estimator


def test_a_taken_name_is_an_error_and_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LOSSES, "espo")
    monkeypatch.setitem(ESTIMATORS, "espo", print)
    with pytest.raises(ValueError, match=r"advantage estimator 'espo' is already <built-in function print>"):
        register()
    assert "espo" not in LOSSES
    assert ESTIMATORS["espo"] is print


def test_contract_loss_signature_is_verls() -> None:
    """`ppo_loss` calls by keyword; the names and the order are those of verl's own losses."""
    theirs = list(inspect.signature(core_algos.compute_policy_loss_vanilla).parameters)
    assert theirs == [
        "old_log_prob",
        "log_prob",
        "advantages",
        "response_mask",
        "loss_agg_mode",
        "config",
        "rollout_is_weights",
    ]
    for loss in plugin.POLICY_LOSSES.values():
        assert list(inspect.signature(loss).parameters) == theirs
    called_with = inspect.getsource(verl_losses.ppo_loss)
    assert all(f"{name}=" in called_with for name in theirs)


def test_contract_aggregation() -> None:
    """`GlobalBatch` has exactly the fields that `agg_loss` takes and `ppo_loss` fills."""
    extra = list(inspect.signature(core_algos.agg_loss).parameters)[3:]
    assert [field.name for field in fields(GlobalBatch)] == extra
    source = inspect.getsource(verl_losses.ppo_loss)
    assert all(f'global_batch_info["{name}"]' in source for name in extra)
    # The values are compared in tests/losses/test_common.py.
    assert all(f'"{mode}"' in inspect.getsource(core_algos.agg_loss) for mode in AGGREGATIONS)


def test_contract_estimator_call() -> None:
    """`compute_advantage` calls a custom estimator with these keywords and a raw configuration node."""
    from verl.trainer.ppo import ray_trainer

    source = inspect.getsource(ray_trainer.compute_advantage)
    for key in ("token_level_rewards", "response_mask", "config", "index", "reward_baselines"):
        assert f'"{key}"' in source


def test_the_adapter_hands_everything_over() -> None:
    batch = random_batch(1, 4, 9, drift=0.2)
    weights = torch.rand(4, 9)
    info = {"dp_size": 2, "batch_num_tokens": 11, "global_batch_size": 8, "loss_scale_factor": None}
    hyper = {"grouping": "threshold", "entropy_thresholds": [1.0], "token_ratio": "old", "alpha": 0.7}
    config = actor_config(ESPOLossConfig(**hyper), global_batch_info=info)
    with token_context(TokenContext(old_entropy=batch.old_entropy, vocab_size=VOCAB)):
        got = LOSSES["espo"](*batch.loss_args(), "seq-mean-token-mean", config, rollout_is_weights=weights)
    want = espo_loss(
        *batch.loss_args(),
        old_entropy=batch.old_entropy,
        vocab_size=VOCAB,
        rollout_is_weights=weights,
        batch=GlobalBatch(**info),
        **hyper,
    )
    assert torch.equal(got[0], want[0])
    assert got[1] == want[1]


def test_clip_ratio_stands_in_for_an_absent_side() -> None:
    batch = random_batch(1, 4, 9, drift=0.3)
    policy_loss = ESPOLossConfig(grouping="sequence", clip="fixed")
    config = actor_config(policy_loss, clip_ratio=0.01, clip_ratio_low=None, clip_ratio_high=0.05)
    got = LOSSES["espo"](*batch.loss_args(), "seq-mean-token-mean", config)
    options = {"grouping": "sequence", "clip": "fixed", "clip_ratio_low": 0.01, "clip_ratio_high": 0.05}
    assert torch.equal(got[0], espo_loss(*batch.loss_args(), **options)[0])


@pytest.mark.parametrize("policy_loss", [None, OmegaConf.create({"loss_mode": "espo"})])
def test_a_plain_policy_loss_config_means_the_defaults(policy_loss: Any) -> None:
    report = plugin.resolved_hyper_parameters("espo", actor_config(policy_loss, clip_ratio_low=3e-4))
    assert report == {
        **ESPOLossConfig().resolved(),
        "clip_ratio_low": 3e-4,
        "clip_ratio_high": 0.2,
        "loss_agg_mode": "seq-mean-token-mean",
    }
    assert json.loads(json.dumps(report)) == report


def test_a_plain_node_with_keys_is_read_and_checked() -> None:
    espo = plugin.POLICY_LOSSES["espo"]
    node = OmegaConf.create({"alpha": 0.4, "entropy_quantiles": [0.5]})
    assert espo.resolve(node) == {**ESPOLossConfig().resolved(), "alpha": 0.4, "entropy_quantiles": [0.5]}
    with pytest.raises(ValueError, match="alpha=-1 must be"):
        espo.resolve(OmegaConf.create({"alpha": -1}))


def test_hyper_parameters_of_a_loss_of_verls_own() -> None:
    report = plugin.resolved_hyper_parameters("gspo", actor_config(loss_agg_mode="token-mean"))
    assert report == {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "loss_agg_mode": "token-mean"}


def test_token_data_that_is_missing_is_an_error_and_only_where_needed() -> None:
    batch = random_batch(1, 2, 3, drift=0.1)
    call = (*batch.loss_args(), "seq-mean-token-mean")
    with pytest.raises(MissingTokenData, match=r"`espo` needs (.|\n)*old_entropy(.|\n)*vocab_size"):
        LOSSES["espo"](*call, actor_config(ESPOLossConfig()))
    LOSSES["espo"](*call, actor_config(ESPOLossConfig(grouping="token", clip="fixed")))


def test_an_aggregation_that_cannot_be_honoured_is_refused() -> None:
    batch = random_batch(1, 2, 3, drift=0.1)
    for mode in ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm"):
        with pytest.raises(ValueError, match=f"loss_agg_mode={mode}; set it to seq-mean-token-mean"):
            LOSSES["espo"](*batch.loss_args(), mode, actor_config(ESPOLossConfig()))


def estimate(config: Any, verified: Any = (True, True, False), **keys: Any) -> torch.Tensor:
    rewards = torch.tensor([[1.0], [0.0], [5.0]])
    index = np.array(["a", "a", "a"], dtype=object)
    flags = None if verified is None else torch.tensor(verified)
    with token_context(TokenContext(verified=flags)):
        advantages, _ = ESTIMATORS["espo"](
            token_level_rewards=rewards,
            response_mask=torch.ones(3, 1),
            config=config,
            **{"index": index, **keys},
        )
    return advantages


@pytest.mark.parametrize("config", [None, {}, {"espo": None}, {"espo": {"failed": "unverified"}}])
def test_estimator_through_verls_signature(config: Any) -> None:
    node = None if config is None else OmegaConf.create({"norm_adv_by_std_in_grpo": True, **config})
    advantages = estimate(node, reward_baselines=torch.zeros(3))
    assert advantages[:, 0].tolist() == pytest.approx([0.707106, -0.707106, 0.0], abs=1e-6)


def test_estimator_in_a_struct_node() -> None:
    """Hydra's configurations are in struct mode, where reading an absent key is an error, except with get."""
    node = OmegaConf.create({"norm_adv_by_std_in_grpo": True})
    OmegaConf.set_struct(node, True)
    assert estimate(node).any()


def test_estimator_reads_its_keys() -> None:
    # {1} alone is above 0 and judged: a group of one
    assert not estimate(OmegaConf.create({"espo": {"failed": "incorrect"}})).any()


def test_estimator_faults() -> None:
    with pytest.raises(ValueError, match=r"algorithm.espo (.|\n)*unknown key 'faild'; did you mean 'failed'\?"):
        estimate(OmegaConf.create({"espo": {"faild": "incorrect"}}))
    with pytest.raises(ValueError, match=r"algorithm.espo must hold keys \(failed\), but it is 'incorrect'"):
        estimate(OmegaConf.create({"espo": "incorrect"}))
    with pytest.raises(ValueError, match="norm_adv_by_std_in_grpo=False is not defined for `espo`"):
        estimate(OmegaConf.create({"norm_adv_by_std_in_grpo": False}))
    with pytest.raises(ValueError, match="no `uid`"):
        estimate(None, index=None)
    with pytest.raises(MissingTokenData, match=r"verified: let the reward function"):
        estimate(None, verified=None)


MODULES = [
    f"{package.__name__}.{found.name}"
    for package in (losses, advantages)
    for found in pkgutil.iter_modules(package.__path__)
]
TOOLS = ["verl_ext.context", "verl_ext.grouping", "verl_ext.segments", "verl_ext.vocabulary"]


@pytest.mark.parametrize("name", [*MODULES, *TOOLS])
def test_examples_in_docstrings(name: str) -> None:
    """With `test_every_entry_is_complete`, which asks for an example of each method."""
    assert doctest.testmod(import_module(name)).failed == 0


def test_the_modules_of_the_examples_are_found() -> None:
    assert {"verl_ext.losses.espo", "verl_ext.losses.sspo", "verl_ext.advantages.erpo"} <= set(MODULES)


@pytest.mark.parametrize("method", [*plugin.POLICY_LOSSES.values(), *plugin.ESTIMATORS.values()], ids=lambda m: m.name)
def test_every_entry_is_complete(method: Any) -> None:
    assert method.title or not method.arxiv
    assert set(method.reads) <= {field.name for field in fields(TokenContext)}
    defaults = method.config_type().defaults()
    assert set(method.needs_with(defaults)) <= set(method.reads)
    read = set(defaults) - set(getattr(method, "controller_keys", ()))
    assert set(method.reads) | read <= set(inspect.signature(method.implementation).parameters)
    assert "Example:" in (inspect.getdoc(method.implementation) or "")

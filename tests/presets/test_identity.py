"""What makes a preset the method that it is, key by key, and what may be changed."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo import core_algos
from verl.workers.config import FSDPActorConfig, PolicyLossConfig

from tests.bridge.configurations import compose
from tests.presets.other_values import ACTOR, AGGREGATION, ESTIMATOR, LOSS, OTHER_VALUES
from verl_ext.composing.identity import OWN_AGGREGATION
from verl_ext.composing.preset import Preset, alone

POLICY_LOSS = f"{ACTOR}.policy_loss"
EACH_KEY = [(preset, key) for preset, values in OTHER_VALUES.items() for key in values]


@cache
def verls() -> DictConfig:
    return compose()


def preset(name: str) -> Preset:
    return Preset(name, f"algo={name}", alone(name))


def composed(name: str, **changes: object) -> DictConfig:
    """verl's configuration with a preset merged in, as Hydra merges it, and with changes."""
    base = OmegaConf.masked_copy(verls(), ["actor_rollout_ref", "algorithm", "data"])
    OmegaConf.set_struct(base, False)
    merged = OmegaConf.merge(base, alone(name))
    assert isinstance(merged, DictConfig)
    for key, value in changes.items():
        OmegaConf.update(merged, key, value, force_add=True)
    return merged


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_preset_alone_is_itself(name: str) -> None:
    assert preset(name).broken(composed(name)) == {}
    assert preset(name).changed(composed(name)) == {}


@pytest.mark.parametrize(("name", "key"), EACH_KEY)
def test_each_key_is_told_with_both_values(name: str, key: str) -> None:
    value = OTHER_VALUES[name][key]
    own = OmegaConf.select(composed(name), key)
    assert preset(name).broken(composed(name, **{key: value})) == {key: (value, own)}


# Preset, changes -> what is shown of them, without the common beginnings of the keys.
MAY_BE_CHANGED: list[tuple[str, dict[str, object], dict[str, tuple[object, object]]]] = [
    ("grpo", {AGGREGATION: "seq-mean-token-mean"}, {"loss_agg_mode": ("seq-mean-token-mean", "token-mean")}),
    ("lpo", {f"{POLICY_LOSS}.delimiter": "\n"}, {"policy_loss.delimiter": ("\n", ".")}),
    ("sspo", {f"{POLICY_LOSS}.beta": 0.7}, {"policy_loss.beta": (0.7, 0.8)}),
    ("espo", {f"{POLICY_LOSS}.entropy_quantiles": [0.5, 0.9]}, {"policy_loss.entropy_quantiles": ([0.5, 0.9], [0.8])}),
    ("espo", {f"{POLICY_LOSS}.grouping": "quantile"}, {}),
    ("espo", {"algorithm.espo": {"failed": "incorrect"}}, {"algorithm.espo.failed": ("incorrect", "unverified")}),
    ("gspo", {f"{ACTOR}.clip_ratio_high": 0.2}, {"clip_ratio_high": (0.2, 4e-4)}),
    ("clip_cov", {f"{POLICY_LOSS}.clip_cov_ratio": 1e-3}, {"policy_loss.clip_cov_ratio": (1e-3, 2e-4)}),
    # Above the lower end the range is still raised, and the bonus still a reward.
    ("clip_higher", {f"{ACTOR}.clip_ratio_high": 0.3}, {"clip_ratio_high": (0.3, 0.28)}),
    ("max_entropy", {f"{ACTOR}.entropy_coeff": 0.01}, {"entropy_coeff": (0.01, 1e-3)}),
    # Without the penalty nothing reads the current entropies.
    (
        "tepo",
        {f"{POLICY_LOSS}.kl_coef": 0.0, f"{ACTOR}.calculate_entropy": False},
        {"policy_loss.kl_coef": (0.0, 0.001), "calculate_entropy": (False, True)},
    ),
    # Either switch gives the reference policy's log-probs.
    (
        "erpo",
        {f"{ACTOR}.use_kl_loss": False, "algorithm.use_kl_in_reward": True},
        {"use_kl_loss": (False, True)},
    ),
    # What the preset's file leaves to an interpolation has the value it has here.
    ("dr_grpo", {"data.max_response_length": 77}, {}),
    ("dr_grpo", {f"{ACTOR}.loss_scale_factor": 5}, {"loss_scale_factor": (5, 512)}),
]


@pytest.mark.parametrize(("name", "changes", "shown"), MAY_BE_CHANGED)
def test_other_keys_are_shown_and_no_fault(
    name: str, changes: dict[str, object], shown: dict[str, tuple[object, object]]
) -> None:
    config = composed(name, **changes)
    assert preset(name).broken(config) == {}
    assert {key.removeprefix(f"{ACTOR}."): values for key, values in preset(name).changed(config).items()} == shown


def test_a_need_of_the_preset_is_told_where_another_loss_would_run_too() -> None:
    changes = {LOSS: "vanilla", f"{ACTOR}.calculate_entropy": False}
    assert [*preset("steer").broken(composed("steer", **changes))] == [*changes]


@pytest.mark.parametrize(
    ("chosen", "changes", "other"),
    [
        ("gtpo", {ESTIMATOR: "grpo"}, "grpo"),
        ("espo", {ESTIMATOR: "grpo"}, "espo_loss"),
        ("dr_grpo", {AGGREGATION: "token-mean", "algorithm.norm_adv_by_std_in_grpo": True}, "grpo"),
        ("max_entropy", {f"{ACTOR}.entropy_coeff": -1e-3}, "min_entropy"),
        ("espo", {ESTIMATOR: "rloo"}, None),
    ],
)
def test_the_preset_that_would_run(chosen: str, changes: dict[str, object], other: str | None) -> None:
    config = composed(chosen, **changes)
    fault = preset(chosen).fault(config, preset(chosen).broken(config))
    assert fault.partition("; or choose ")[2] == (f"algo={other}" if other else "")


def test_a_preset_that_is_made_of_another_one_has_its_keys() -> None:
    both = alone("max_entropy").actor_rollout_ref.actor
    assert (both.clip_ratio_high, both.entropy_coeff) == (0.28, 1e-3)
    assert alone("espo_loss").algorithm.adv_estimator == "grpo"


VERLS = [name for name, function in core_algos.POLICY_LOSS_REGISTRY.items() if function.__module__.startswith("verl.")]


# Its bypass_mode hands over to another loss.
@pytest.mark.parametrize("loss", sorted({*VERLS} - {"bypass_mode"}))
def test_contract_which_losses_of_verl_do_not_aggregate_as_told(loss: str) -> None:
    config = FSDPActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=0.2,
        policy_loss=PolicyLossConfig(loss_mode=loss, dro_beta=1.0),
    )
    old, advantages = torch.tensor([[-1.0, -1.1, -1.2], [-0.9, -1.0, -1.1]]), torch.tensor([[1.0], [-2.0]]).expand(2, 3)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])

    def value(mode: str) -> float:
        torch.manual_seed(0)
        function = core_algos.POLICY_LOSS_REGISTRY[loss]
        return float(function(old, old + 0.05, advantages, mask, loss_agg_mode=mode, config=config)[0])

    same = value("token-mean") == pytest.approx(value("seq-mean-token-sum"))
    assert same == (loss in OWN_AGGREGATION)

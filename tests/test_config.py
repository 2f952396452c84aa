"""Hyper-parameter classes as hydra and verl instantiate them."""

import dataclasses
import inspect
import json
import math
import pickle
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import FSDPActorConfig, PolicyLossConfig

from verl_ext import config as classes
from verl_ext import plugin
from verl_ext.config import (
    EntropyBonusAdvantageConfig,
    ERPOAdvantageConfig,
    ESPOAdvantageConfig,
    ESPOLossConfig,
    SSPOLossConfig,
    STEERLossConfig,
    TEPOLossConfig,
)

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
        "alpha": 0.02,
    }


@pytest.mark.parametrize(
    "method", [*plugin.POLICY_LOSSES.values(), *plugin.ESTIMATORS.values()], ids=lambda method: method.name
)
def test_defaults_of_class_and_function_agree(method: Any) -> None:
    signature = inspect.signature(method.implementation).parameters
    elsewhere = getattr(method, "controller_keys", ())
    for name, default in method.config_type().defaults().items():
        if name in elsewhere:
            continue
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


# The numbers of the papers, and of the decisions where they have none.
DEFAULTS = {
    SSPOLossConfig: {"delimiter": "\n\n", "entropy_clip": True, "alpha": 0.0, "beta": 0.8, "gamma": 1.75},
    TEPOLossConfig: {
        "ratio": "sequence",
        "clip": "printed",
        "kl_mask": "pos_adv_entropy_down",
        "entropy_tol": 0.0,
        "kl_coef": 0.001,
        "kl_type": "low_var_kl",
    },
    STEERLossConfig: {"mapping": "exponential", "scope": "row", "w_min": 0.8, "w_max": 1.0},
    ERPOAdvantageConfig: {
        "beta_progress": 1.0,
        "gamma": 1.0,
        "num_buckets": 10,
        "eta": 0.1,
        "sigma_target": 1.0,
        "delta": 1e-6,
    },
    EntropyBonusAdvantageConfig: {"scale": 0.4, "kappa": 2.0},
}


def refusal(cls: Any, **keys: Any) -> str:
    with pytest.raises(ValueError, match="is not valid") as raised:
        cls(**keys)
    return str(raised.value)


@pytest.mark.parametrize("cls", DEFAULTS, ids=lambda cls: cls.__name__)
def test_defaults_are_exactly_those_of_the_method(cls: Any) -> None:
    assert cls().resolved() == DEFAULTS[cls]
    assert cls.defaults() == DEFAULTS[cls]
    assert cls.__name__.lower().startswith(cls.method.replace("_", ""))
    if issubclass(cls, PolicyLossConfig):
        assert cls().loss_mode == cls.method
        assert "set actor_rollout_ref.actor.policy_loss.loss_mode=" + cls.method in refusal(cls, loss_mode="vanilla")
        through_hydra = omega_conf_to_dataclass(OmegaConf.create({"_target_": f"verl_ext.config.{cls.__name__}"}))
        assert type(through_hydra) is cls
    else:
        assert cls.where == f"algorithm.{cls.method}"


NOT_NEGATIVE, POSITIVE = "a finite number >= 0", "a finite number > 0"
RANGES = [
    (SSPOLossConfig, "delimiter", "a string that is not empty", ["", 3, None]),
    (SSPOLossConfig, "entropy_clip", "true or false", ["true", 0, None]),
    (SSPOLossConfig, "alpha", NOT_NEGATIVE, [-0.01, math.nan, "0"]),
    (SSPOLossConfig, "beta", "a finite number >= 0 and <= 1", [-0.1, 1.01]),
    (SSPOLossConfig, "gamma", "a finite number >= 1", [0.99, math.inf]),
    (TEPOLossConfig, "ratio", "one of sequence, token, prefix, none", ["seq", None]),
    (TEPOLossConfig, "clip", "one of printed, ppo, none", ["dual", None]),
    (
        TEPOLossConfig,
        "kl_mask",
        "one of pos_adv_entropy_down, neg_adv_entropy_up, either, all, none",
        ["both", None],
    ),
    (TEPOLossConfig, "entropy_tol", NOT_NEGATIVE, [-1e-9, None]),
    (TEPOLossConfig, "kl_coef", NOT_NEGATIVE, [-0.001, True]),
    (TEPOLossConfig, "kl_type", "one of kl, k1, abs, mse, k2, low_var_kl, k3, kl+", ["full", "k4"]),
    (STEERLossConfig, "mapping", "one of exponential, linear", ["exp"]),
    (STEERLossConfig, "scope", "one of row, micro_batch", ["batch"]),
    (STEERLossConfig, "w_min", POSITIVE, [0, 0.0, -0.1, math.nan]),
    (STEERLossConfig, "w_max", POSITIVE, [0, math.inf]),
    (ERPOAdvantageConfig, "beta_progress", NOT_NEGATIVE, [-1]),
    (ERPOAdvantageConfig, "gamma", NOT_NEGATIVE, [-1]),
    (ERPOAdvantageConfig, "num_buckets", "a whole number >= 1", [0, 1.5, 10.0, True, "10"]),
    (ERPOAdvantageConfig, "eta", NOT_NEGATIVE, [-0.1]),
    (ERPOAdvantageConfig, "sigma_target", NOT_NEGATIVE, [-0.1]),
    (ERPOAdvantageConfig, "delta", POSITIVE, [0, -1e-6]),
    (EntropyBonusAdvantageConfig, "scale", NOT_NEGATIVE, [-4e-4]),
    (EntropyBonusAdvantageConfig, "kappa", POSITIVE, [0, -2]),
]


@pytest.mark.parametrize(("cls", "key", "wanted", "values"), RANGES, ids=[f"{c.method}.{k}" for c, k, _, _ in RANGES])
def test_out_of_range_names_the_range(cls: Any, key: str, wanted: str, values: list[Any]) -> None:
    for value in values:
        assert f"\n  - {key}={value!r} must be {wanted}" in refusal(cls, **{key: value})


def test_every_key_of_the_newer_classes_has_a_range_above() -> None:
    checked = {(cls, key) for cls, key, _, _ in RANGES}
    assert checked == {(cls, key) for cls, keys in DEFAULTS.items() for key in keys}


def test_edges_of_the_ranges_are_taken() -> None:
    assert SSPOLossConfig(alpha=0, beta=1, gamma=1).beta == 1
    assert SSPOLossConfig(beta=0).beta == 0
    assert TEPOLossConfig(kl_coef=0, entropy_tol=0).kl_coef == 0
    assert STEERLossConfig(w_min=1, w_max=1).w_min == 1
    assert STEERLossConfig(mapping="linear", w_min=1.1, w_max=1.3).w_min == 1.1
    assert ERPOAdvantageConfig(num_buckets=1, beta_progress=0, gamma=0, eta=0, sigma_target=0).num_buckets == 1
    assert EntropyBonusAdvantageConfig(scale=0).scale == 0


def test_weights_of_steer_that_contradict_each_other() -> None:
    assert "w_min=0.9 must be <= w_max=0.5" in refusal(STEERLossConfig, w_min=0.9, w_max=0.5, mapping="linear")
    # one of the two is the default
    assert "w_min=0.8 must be <= w_max=0.5" in refusal(STEERLossConfig, w_max=0.5)
    assert "w_min=1.2 must be <= w_max=1" in refusal(STEERLossConfig, w_min=1.2, mapping="linear")
    # exp(-k |Omega|) starts at 1
    text = refusal(STEERLossConfig, w_min=1.1, w_max=1.3)
    assert text.count("\n  - ") == 1
    assert "w_min=1.1 must be <= 1 with mapping=exponential" in text


@pytest.mark.parametrize(
    ("cls", "slip", "meant"),
    [
        (SSPOLossConfig, "delimeter", "delimiter"),
        (TEPOLossConfig, "kl_coeff", "kl_coef"),
        (STEERLossConfig, "wmin", "w_min"),
        (ERPOAdvantageConfig, "num_bucket", "num_buckets"),
        (EntropyBonusAdvantageConfig, "kapa", "kappa"),
    ],
)
def test_an_unknown_key_names_the_nearest_of_its_own_class(cls: Any, slip: str, meant: str) -> None:
    text = refusal(cls, **{slip: 1, "zebra": 2})
    assert f"{cls.where} ({cls.__name__}) is not valid" in text
    assert f"unknown key '{slip}'; did you mean '{meant}'?" in text
    assert f"unknown key 'zebra'; {cls.method} reads {', '.join(DEFAULTS[cls])}" in text


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in (plugin.POLICY_LOSSES, plugin.ESTIMATORS) for name in table]
)
def test_a_class_made_of_the_signature_has_what_the_one_by_hand_has(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], name: str
) -> None:
    """But for SSPO's delimiter, which its function does not take."""
    by_hand = table[name].config_type()
    entry = dataclasses.replace(table[name], name="not_by_hand", config="")
    monkeypatch.setitem(table, entry.name, entry)
    made = entry.config_type()
    assert entry.config_path == f"verl_ext.config.{made.__name__}"
    assert made.where.replace(entry.name, name) == by_hand.where
    lacking = {"delimiter"} if by_hand is SSPOLossConfig else set()
    for told in ("defaults", "ranges"):
        given = getattr(by_hand, told)()
        assert getattr(made, told)() == {key: value for key, value in given.items() if key not in lacking}
    assert pickle.loads(pickle.dumps(made())) == made()
    with pytest.raises(ValueError, match="unknown key 'no_such_key'"):
        made(no_such_key=1)
    classes.__getattr__.cache_clear()


def test_a_name_that_is_no_class_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuchLossConfig'"):
        _ = classes.NoSuchLossConfig

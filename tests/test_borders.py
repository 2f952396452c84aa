"""Every method at its public border: what a configuration refuses, its function refuses too."""

import inspect
import itertools
import pydoc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import verl_ext.advantages
import verl_ext.losses
from tests.losses.batches import VOCAB, actor_config, random_batch
from verl_ext import plugin
from verl_ext.hyper import checks_of, out_of_range

LOSSES, ESTIMATORS = list(plugin.POLICY_LOSSES.values()), list(plugin.ESTIMATORS.values())
METHODS = [*LOSSES, *ESTIMATORS]


def names(methods: list[Any]) -> list[str]:
    return [f"{type(method).__name__}-{method.name}" for method in methods]


BATCH = random_batch(0, 4, 9, drift=0.1, fill=1.0)
DATA = {
    "old_entropy": BATCH.old_entropy,
    "entropy": BATCH.old_entropy,
    "segment_ids": torch.zeros(4, 9).long(),
    "vocab_size": VOCAB,
    "verified": torch.ones(4).bool(),
    "old_log_prob": BATCH.old_log_prob,
    "ref_log_prob": BATCH.log_prob,
}


def call(method: Any, **options: Any) -> Any:
    """The implementation, with all token data that it needs."""
    data = {name: value for name, value in DATA.items() if name in method.reads}
    if isinstance(method, plugin.PolicyLoss):
        return method.implementation(*BATCH.loss_args(), **{**data, **options})
    return method.implementation(BATCH.advantages, BATCH.response_mask, [0, 0, 1, 1], **{**data, **options})


def refusal(attempt: Callable[[], Any]) -> str:
    with pytest.raises(ValueError, match=r": |is not valid") as raised:
        attempt()
    return str(raised.value)


@pytest.mark.parametrize("method", METHODS, ids=names(METHODS))
def test_every_option_of_a_signature_has_its_range(method: Any) -> None:
    """So that a new parameter cannot be left unchecked; token data and normalisers are no options."""
    options = {
        name
        for name, parameter in inspect.signature(method.implementation).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in ("batch", "rollout_is_weights", "group_ids")
    } - set(method.reads)
    assert set(checks_of(method.implementation)) == options
    assert set(method.config_type().names()) - set(getattr(method, "controller_keys", ())) <= options


@pytest.mark.parametrize("method", METHODS, ids=names(METHODS))
def test_what_a_configuration_refuses_the_function_refuses_in_the_same_words(method: Any) -> None:
    config, checks = method.config_type(), checks_of(method.implementation)
    values = (-1, float("nan"), 0.8, "nonsense", None, True, BATCH.advantages)
    for name, value in itertools.product(checks, values):
        fault = out_of_range(checks, {name: value}).get(name)
        if fault is None:
            continue
        assert fault in refusal(lambda name=name, value=value: call(method, **{name: value}))
        if name in config.names():
            assert fault in refusal(lambda name=name, value=value: config(**{name: value}))
    assert "nonsense" in str(out_of_range(checks, dict.fromkeys(checks, "nonsense"))), "no value was refused"


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        (
            "espo",
            {"alpha": -1, "entropy_quantiles": 0.8, "clip": "fxed"},
            "alpha=-1 .*clip='fxed'|clip='fxed'.* alpha=-1",
        ),
        ("espo", {"entropy_quantiles": []}, "grouping=quantile needs at least one number in entropy_quantiles"),
        ("espo", {"grouping": "token", "entropy_thresholds": [1.0]}, "not read with grouping=token"),
        ("steer", {"w_min": 1.5, "w_max": 1.2, "mapping": "linear"}, "w_min=1.5 must be <= w_max=1.2"),
        ("steer", {"w_min": 1.1, "w_max": 1.2}, "must be <= 1 with mapping=exponential"),
    ],
)
def test_all_faults_at_once_and_contradictions(name: str, options: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        call(plugin.POLICY_LOSSES[name], **options)


@pytest.mark.parametrize("name", ["gtpo", "grpo_s"])
def test_contradictions_of_estimators(name: str) -> None:
    with pytest.raises(ValueError, match=r"entropy_low=0.5 must be <= entropy_high=0.28"):
        call(plugin.ESTIMATORS[name], entropy_low=0.5)


def test_numbers_of_numpy_are_numbers() -> None:
    assert (
        call(plugin.POLICY_LOSSES["espo"], alpha=np.float32(0.5))[0] == call(plugin.POLICY_LOSSES["espo"], alpha=0.5)[0]
    )
    assert torch.equal(*(call(plugin.ESTIMATORS["erpo"], num_buckets=k)[0] for k in (np.int64(3), 3)))


@pytest.mark.parametrize("method", METHODS, ids=names(METHODS))
def test_entropies_far_below_zero_are_refused_and_rounding_is_not(method: Any) -> None:
    for name in {"entropy", "old_entropy"} & set(method.reads):
        values = DATA[name].clone()
        values[1, 2] = -0.1
        call(method, **{name: values})
        values[1, 2] = values[3, 0] = -3.0
        with pytest.raises(ValueError, match=r"2 valid tokens have an entropy below -0.5 nats"):
            call(method, **{name: values})


def test_an_entropy_behind_the_mask_is_not_looked_at() -> None:
    batch = random_batch(1, 3, 6, drift=0.1, fill=0.6)
    entropy = torch.where(batch.response_mask, batch.old_entropy, -9.0)
    hidden, _ = verl_ext.losses.espo_loss(*batch.loss_args(), old_entropy=entropy, vocab_size=VOCAB)
    plain, _ = verl_ext.losses.espo_loss(*batch.loss_args(), old_entropy=batch.old_entropy, vocab_size=VOCAB)
    assert torch.equal(hidden, plain)


def test_a_clip_range_that_the_method_refuses_is_a_fault_before_the_run() -> None:
    actor = actor_config(clip_ratio_low=-0.2)
    assert plugin.POLICY_LOSSES["tepo"].setting_faults(actor) == [
        "actor_rollout_ref.actor.clip_ratio_low=-0.2 must be a finite number >= 0"
    ]
    assert plugin.POLICY_LOSSES["steer"].setting_faults(actor_config(clip_ratio_c=1.0)) == [
        "actor_rollout_ref.actor.clip_ratio_c=1.0 must be a finite number > 1"
    ]


@pytest.mark.parametrize(("package", "methods"), [(verl_ext.losses, LOSSES), (verl_ext.advantages, ESTIMATORS)])
def test_every_method_is_offered_by_its_package_and_in_its_help(package: Any, methods: list[Any]) -> None:
    assert sorted(package.__all__) == sorted(method.implementation.__name__ for method in methods)
    page = pydoc.plain(pydoc.render_doc(package))
    for method in methods:
        assert getattr(package, method.implementation.__name__) is method.implementation
        assert f"{method.implementation.__name__}(" in page

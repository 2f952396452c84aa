"""Settings of the guards, and what is refused before Ray starts."""

from __future__ import annotations

import pytest
from verl.utils import config as verl_config

from tests.bridge.configurations import compose
from verl_ext.composing.errors import ConfigError
from verl_ext.run import settings as run_settings
from verl_ext.run import state as run_state
from verl_ext.run.guards import configuration
from verl_ext.run.guards.settings import GuardSettings

FLOOR = "+verl_ext.guards.entropy_floor=0.5"
ROLLBACK = ("+backend=cpu", FLOOR, "+verl_ext.guards.entropy_action=rollback")


def test_a_command_line_without_the_section_has_the_defaults() -> None:
    settings = run_settings.section(compose("+backend=cpu"), "guards")
    assert settings == GuardSettings()
    assert (settings.nonfinite_action, settings.entropy_floor, settings.verifier_action) == ("stop", None, "warn")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"entropy_flor": 1}, "unknown key 'entropy_flor'; did you mean 'entropy_floor'"),
        ({"entropy_floor": 0}, "entropy_floor=0 must be null or a finite number > 0"),
        ({"verifier_error_share": 1.5}, "verifier_error_share=1.5 must be null or a finite number > 0 and <= 1"),
        ({"nonfinite_action": "skipp"}, "did you mean 'skip'"),
        ({"nonfinite_max_skipped": 9}, "nonfinite_max_skipped=9 is read with nonfinite_action=skip only"),
        (
            {"entropy_floor": 1.0, "entropy_max_rollbacks": 9},
            "entropy_max_rollbacks=9 is read with entropy_action=rollback only",
        ),
        ({"entropy_action": "stop"}, "entropy_action=stop does nothing without an entropy_floor"),
        ({"entropy_steps": 9}, "entropy_steps=9 does nothing without an entropy_floor"),
        ({"verifier_error_share": None, "verifier_action": "stop"}, "does nothing with verifier_error_share=null"),
        ({"write_batch": False, "max_rows": 9}, "max_rows=9 does nothing with write_batch=false"),
    ],
)
def test_faults_of_the_section(given: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=r"verl_ext\.guards") as caught:
        GuardSettings(**given)
    assert fault in str(caught.value)


def test_what_belongs_together_is_accepted() -> None:
    GuardSettings(nonfinite_action="skip", nonfinite_max_skipped=9)
    GuardSettings(entropy_floor=0.1, entropy_steps=9, entropy_action="rollback", entropy_max_rollbacks=9)


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ((*ROLLBACK, "trainer.save_freq=-1"), "trainer.save_freq=-1: no checkpoint would be there"),
        (
            (*ROLLBACK, "trainer.save_freq=1", "trainer.v1.trainer_mode=colocate_async"),
            "trainer.v1.trainer_mode=colocate_async",
        ),
        (
            (*ROLLBACK, "trainer.save_freq=2", "trainer.max_actor_ckpt_to_keep=3"),
            "trainer.max_actor_ckpt_to_keep keeps 3, but with entropy_steps=5 and save_freq=2 the last good checkpoint "
            "is the 4th from the end; keep 4",
        ),
        (
            (*ROLLBACK, "trainer.save_freq=1", "actor_rollout_ref.actor.checkpoint.save_contents=[model]"),
            "save_contents lacks optimizer, extra",
        ),
        (
            (*ROLLBACK, "trainer.save_freq=1", "actor_rollout_ref.actor.checkpoint.async_save=true"),
            "async_save=true",
        ),
        (
            ("+backend=cpu", FLOOR, "algorithm.rollout_correction.bypass_mode=true"),
            "entropy_floor=0.5: there are no entropies to compare with it",
        ),
        (
            ("+backend=cpu", "+verl_ext.guards.max_written=2", "trainer.use_v1=false"),
            "no effect with trainer.use_v1=false",
        ),
    ],
)
def test_contradictions_with_the_rest_are_refused_by_the_driver(overrides: tuple[str, ...], fault: str) -> None:
    config = compose(*overrides)
    assert any(fault in found for found in configuration.faults(config)), configuration.faults(config)
    with pytest.raises(ConfigError, match="the configuration cannot run"):
        verl_config.validate_config(config, False, False)


def test_megatron_cannot_skip() -> None:
    config = compose("+verl_ext.guards.nonfinite_action=skip")
    assert configuration.faults(config) == []
    config.actor_rollout_ref.actor.strategy = "megatron"
    assert any("Megatron applies an update whose gradient is NaN" in fault for fault in configuration.faults(config))


def test_a_run_that_can_roll_back_is_accepted() -> None:
    assert configuration.faults(compose(*ROLLBACK, "trainer.save_freq=2", "trainer.max_actor_ckpt_to_keep=4")) == []
    bypass = compose("+backend=cpu", "+algo=espo", FLOOR, "algorithm.rollout_correction.bypass_mode=true")
    assert configuration.faults(bypass) == []  # the rollout returns entropies


def test_faults_of_the_guards_come_with_the_others() -> None:
    config = compose(*ROLLBACK, "actor_rollout_ref.actor.policy_loss.loss_mode=esp0", "trainer.save_freq=-1")
    with pytest.raises(ConfigError) as caught:
        verl_config.validate_config(config, False, False)
    assert "no such policy loss" in str(caught.value)
    assert "trainer.save_freq=-1" in str(caught.value)


# --- what survives a resume


class Holder:
    def __init__(self, number: int = 0) -> None:
        self.number = number

    def state_dict(self) -> dict:
        return {"number": self.number}

    def load_state_dict(self, state: dict) -> None:
        self.number = state["number"]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "_registered", {})
    monkeypatch.setattr(run_state, "_waiting", {})


@pytest.mark.usefixtures("registry")
def test_state_goes_to_the_holder_of_its_name_now_or_when_it_comes() -> None:
    run_state.register("a", Holder(1))
    assert run_state.state() == {"a": {"number": 1}}
    run_state.restore({"a": {"number": 5}, "b": {"number": 7}})
    assert run_state.state() == {"a": {"number": 5}, "b": {"number": 7}}  # b waits, and is saved again meanwhile
    late = Holder()
    run_state.register("b", late)
    assert late.number == 7
    late.number = 8
    assert run_state.state()["b"] == {"number": 8}

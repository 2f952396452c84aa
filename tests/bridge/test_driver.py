"""Faults of a configuration are found in the driver, all of them, before Ray starts."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import verl.utils.config
from omegaconf import DictConfig
from verl.trainer import main_ppo

from tests.bridge.configurations import compose, entry_point, refused
from verl_ext.bridge import driver, probe
from verl_ext.checks.methods import faults
from verl_ext.composing.errors import ConfigError
from verl_ext.composing.preset import of_this_process
from verl_ext.hyper import nearest

ROLLOUT = "actor_rollout_ref.rollout"
LOSS = "actor_rollout_ref.actor.policy_loss"
AGGREGATION = "actor_rollout_ref.actor.loss_agg_mode"


def config(*overrides: str) -> DictConfig:
    return compose("+backend=cpu", "+algo=espo", *overrides)


@pytest.mark.parametrize("algo", ["espo", "gspo", "grpo"])
def test_the_shipped_configurations_have_no_fault(algo: str) -> None:
    assert faults(compose("+backend=cpu", f"+algo={algo}")) == []
    assert faults(compose(f"+algo={algo}")) == []


def test_verls_own_configuration_has_no_fault() -> None:
    assert faults(compose()) == []


PRESETS = sorted(file.stem for file in (Path(__file__).resolve().parents[2] / "configs" / "algo").glob("*.yaml"))


# Presets that are named otherwise than the loss they choose.
VANILLA = ("clip_higher", "dr_grpo", "max_entropy", "min_entropy")
CHOSEN = {"lpo": "sspo", "espo_loss": "espo", "gmpo": "geo_mean", **dict.fromkeys(VANILLA, "vanilla")}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_its_own_method(preset: str) -> None:
    """A preset alone has no fault: what its method needs is switched on, and nothing is left at verl's default."""
    with entry_point("+backend=cpu", f"+algo={preset}") as composed:
        chosen = of_this_process()
    assert chosen is not None
    assert faults(composed, chosen) == []
    assert chosen.summary(composed) == "", "the preset's file was read otherwise than Hydra reads it"
    loss = composed.actor_rollout_ref.actor.policy_loss.loss_mode
    ran = {loss, str(composed.algorithm.adv_estimator)}
    assert CHOSEN.get(preset, preset) in ran


# Override -> what the one sentence about it must hold.
ONE_FAULT = {
    "policy loss": (
        [f"{LOSS}.loss_mode=espoo", f"{LOSS}._target_=verl.workers.config.PolicyLossConfig"],
        ["did you mean 'espo'?"],
    ),
    "no near name": (
        [f"{LOSS}.loss_mode=zzzzzz", f"{LOSS}._target_=verl.workers.config.PolicyLossConfig"],
        [f"{LOSS}.loss_mode=zzzzzz", "there is: ", "vanilla"],
    ),
    "estimator": (
        ["algorithm.adv_estimator=espoo"],
        ["algorithm.adv_estimator=espoo", "did you mean 'espo'?"],
    ),
    "unknown key": ([f"+{LOSS}.alhpa=0.1"], [LOSS, "'alhpa'", "did you mean 'alpha'?"]),
    "out of range": ([f"+{LOSS}.alpha=-1"], [LOSS, "alpha=-1", ">= 0"]),
    "estimator's key": (["+algorithm.espo.failed=wrong"], ["algorithm.espo", "unverified, incorrect"]),
    "aggregation": ([f"{AGGREGATION}=token-mean"], [f"{AGGREGATION}=token-mean", "seq-mean-token-mean"]),
    "bypass": (
        ["algorithm.rollout_correction.bypass_mode=true", f"{ROLLOUT}.top_p=0.9"],
        [f"{ROLLOUT}.top_p=0.9", "truncated", "set it to 1", "which espo (loss) needs"],
    ),
    "actor in bypass": (
        ["algorithm.rollout_correction.bypass_mode=true", "+algorithm.verl_ext.entropy_source=actor"],
        ["algorithm.verl_ext.entropy_source=actor", "bypass_mode=true", "auto or rollout"],
    ),
    "top_k": (["+algorithm.verl_ext.entropy_source=rollout", f"{ROLLOUT}.top_k=50"], ["top_k=50", "set it to -1"]),
    "raw": (
        ["+algorithm.verl_ext.entropy_source=rollout", f"{ROLLOUT}.logprobs_mode=raw_logprobs"],
        [f"{ROLLOUT}.logprobs_mode=raw_logprobs", "set it to processed_logprobs"],
    ),
    "raw in the engine": (
        [
            "+algorithm.verl_ext.entropy_source=rollout",
            f"+{ROLLOUT}.engine_kwargs.vllm.logprobs_mode=raw_logprobs",
        ],
        ["logprobs_mode=raw_logprobs"],
    ),
    "no log-probs": (
        ["+algorithm.verl_ext.entropy_source=rollout", f"{ROLLOUT}.calculate_log_probs=false"],
        ["calculate_log_probs=false", "set it to true"],
    ),
    "another engine": (
        ["+algorithm.verl_ext.entropy_source=rollout", f"{ROLLOUT}.name=sglang"],
        [f"{ROLLOUT}.name=sglang", "only vllm"],
    ),
    "a source that is not there": (
        ["+algorithm.verl_ext.entropy_source=rolout"],
        ["algorithm.verl_ext", "entropy_source='rolout'", "did you mean 'rollout'?"],
    ),
    "an unknown key of ours": (["+algorithm.verl_ext.entropi_source=actor"], ["did you mean 'entropy_source'?"]),
    "a limit in bypass": (
        ["algorithm.rollout_correction.bypass_mode=true", "+algorithm.verl_ext.max_entropy_difference=0.1"],
        ["max_entropy_difference", "bypass_mode=true"],
    ),
    "a limit that is not watched": (
        ["+algorithm.verl_ext={watch_entropies: false, max_entropy_difference: 0.1}"],
        ["max_entropy_difference", "watch_entropies=false"],
    ),
    "current entropy": (
        [f"{LOSS}._target_=verl_ext.config.TEPOLossConfig", f"{LOSS}.loss_mode=tepo"],
        ["actor.calculate_entropy=false: set it to true", "tepo (loss) needs"],
    ),
    "reference": (["algorithm.adv_estimator=erpo"], ["actor.use_kl_loss=false", "erpo (estimator) needs"]),
    "norm": (["algorithm.norm_adv_by_std_in_grpo=false"], ["norm_adv_by_std_in_grpo=False", "espo"]),
    "missing _target_": (
        [f"{LOSS}._target_=verl.workers.config.PolicyLossConfig", f"+{LOSS}.alpha=0.1"],
        [f"alpha need {LOSS}._target_=verl_ext.config.ESPOLossConfig"],
    ),
}


@pytest.mark.parametrize("case", ONE_FAULT)
def test_each_fault_is_one_sentence_that_says_what_to_do(case: str) -> None:
    overrides, expected = ONE_FAULT[case]
    found = faults(config(*overrides))
    assert len(found) == 1, found
    for part in expected:
        assert part in found[0]


def test_a_misspelt_loss_under_our_class_names_the_right_one() -> None:
    found = faults(config(f"{LOSS}.loss_mode=espoo"))
    assert f"{LOSS}.loss_mode=espoo: no such policy loss; did you mean 'espo'?" in found


def test_all_faults_are_reported_together() -> None:
    found = faults(
        config(
            "algorithm.adv_estimator=epso",
            f"+{LOSS}.alhpa=0.1",
            f"+{LOSS}.clip=wide",
            f"{AGGREGATION}=token-mean",
            "algorithm.rollout_correction.bypass_mode=true",
        )
    )
    text = "\n".join(found)
    for part in ("'espo'", "alhpa", "clip='wide'", "token-mean"):
        assert part in text
    assert len(found) >= 3


def test_where_no_entropy_is_needed_the_rollout_may_draw_from_any_distribution() -> None:
    plain = [
        f"+{LOSS}.grouping=token",
        f"+{LOSS}.clip=fixed",
        f"{ROLLOUT}.top_p=0.9",
        "algorithm.rollout_correction.bypass_mode=true",
    ]
    assert faults(config(*plain)) == []


def test_an_estimator_and_a_loss_that_lack_the_same_data_share_one_sentence() -> None:
    overrides = ["algorithm.adv_estimator=entropy_bonus", "algorithm.rollout_correction.bypass_mode=true"]
    assert faults(config(*overrides)) == []
    overrides.append(f"{ROLLOUT}.top_p=0.9")
    (fault,) = faults(config(*overrides))
    assert "which espo (loss) and entropy_bonus (estimator) needs" in fault


@pytest.mark.parametrize(
    "provider",
    [["actor_rollout_ref.actor.calculate_entropy=true"], ["actor_rollout_ref.actor.entropy_coeff=0.01"]],
)
def test_either_setting_that_makes_verl_compute_the_current_entropy_will_do(provider: list[str]) -> None:
    tepo = [f"{LOSS}._target_=verl_ext.config.TEPOLossConfig", f"{LOSS}.loss_mode=tepo"]
    assert faults(config(*tepo, *provider)) == []
    assert faults(config(*tepo, f"+{LOSS}.kl_coef=0")) == []  # nothing to compare, nothing needed


@pytest.mark.parametrize("provider", ["actor_rollout_ref.actor.use_kl_loss", "algorithm.use_kl_in_reward"])
def test_either_setting_that_gives_a_reference_policy_will_do(provider: str) -> None:
    assert faults(config("algorithm.adv_estimator=erpo", f"{provider}=true")) == []


def test_nearest_takes_enumerations_and_lists_what_there_is() -> None:
    assert nearest("gspoo", ["gspo", "espo"]) == "; did you mean 'gspo'?"
    assert nearest("q", ["b", "a"]) == "; there is: a, b"


def test_verls_validate_config_is_stopped_by_our_faults_and_runs_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arranged: list[DictConfig] = []
    monkeypatch.setattr(probe, "arrange", arranged.append)
    bad = config(f"{LOSS}.loss_mode=espoo", "algorithm.adv_estimator=epso")
    with pytest.raises(ConfigError) as caught:
        verl.utils.config.validate_config(config=bad, use_reference_policy=False, use_critic=False)
    assert len(faults(bad)) >= 2
    for fault in faults(bad):
        assert f"\n  - {fault}" in str(caught.value)
    assert arranged == []
    (tmp_path / "data.jsonl").touch()
    good = config(
        f"actor_rollout_ref.model.path={tmp_path}",
        f"data.train_files={tmp_path}/data.jsonl",
        f"data.val_files={tmp_path}/data.jsonl",
        "+verl_ext.reward_probe=off",
    )
    verl.utils.config.validate_config(config=good, use_reference_policy=False, use_critic=False)
    assert arranged == [good]
    # verl's own check still runs.
    good.actor_rollout_ref.rollout.temperature = 0
    good.actor_rollout_ref.rollout.val_kwargs.do_sample = True
    with pytest.raises(AssertionError, match="validation gen temperature"):
        verl.utils.config.validate_config(config=good, use_reference_policy=False, use_critic=False)


def test_what_the_probe_will_look_for_in_rays_workers() -> None:
    from importlib.metadata import version

    expected = {"policy loss": "espo", "advantage estimator": "espo", "version": version("verl-ext")}
    assert probe.needs(config()) == expected
    assert probe.needs(compose("+algo=grpo")) == {}
    assert probe.look(expected) == []
    assert probe.look({**expected, "policy loss": "absent", "version": "0.0.1"}) == [
        "policy loss 'absent' is not registered",
        f"verl-ext {version('verl-ext')} is installed, the driver has 0.0.1",
    ]


def test_contract_the_entry_point_validates_before_it_starts_ray() -> None:
    assert list(inspect.signature(verl.utils.config.validate_config).parameters) == [
        "config",
        "use_reference_policy",
        "use_critic",
    ]
    assert main_ppo.validate_config is verl.utils.config.validate_config
    assert "verl_ext" in driver.__file__
    source = inspect.getsource(inspect.unwrap(main_ppo.main))
    assert 0 < source.index("validate_config(") < source.index("run_ppo(")
    assert "ray.init(" in inspect.getsource(main_ppo.run_ppo)


def test_the_stock_entry_point_refuses_all_faults_before_ray_starts(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/verl_examples/gsm8k/global_step_3").mkdir(parents=True)
    said = refused(tmp_path, "+backend=cpu", "+algo=espo", f"{LOSS}.loss_mode=espoo", "algorithm.adv_estimator=epso")
    assert "checkpoints/verl_ext/espo-deepseek-llm-7b-chat-gsm8k-train-seed42 holds no checkpoint" in said
    assert "Set trainer.default_local_dir=checkpoints/verl_examples/gsm8k to go on from there" in said
    assert f"{LOSS}.loss_mode=espoo: no such policy loss; did you mean 'espo'?" in said
    assert "algorithm.adv_estimator=epso: no such estimator; did you mean 'espo'?" in said


@pytest.mark.ray
def test_the_stock_entry_point_refuses_a_misspelt_hyper_parameter(tmp_path: Path) -> None:
    assert "did you mean 'alpha'?" in refused(tmp_path, "+backend=cpu", "+algo=espo", f"+{LOSS}.alhpa=0.1")

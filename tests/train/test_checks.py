"""Each check is seen to fail, in one sentence that names the setting; all faults come together."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from verl_ext.checks import notes
from verl_ext.checks.collecting import TOLD_BY_US, examine
from verl_ext.sizing.layout import layout
from verl_ext.train import check, compose

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"
LOSS = f"{ACTOR}.policy_loss"


@cache
def composed(*arguments: str) -> DictConfig:
    return compose(arguments).config


def config(algo: str, backend: str, **changes: object) -> DictConfig:
    """A composed configuration, with values put in afterwards; composing costs more than all else here."""
    base = copy.deepcopy(composed(f"algo={algo}", f"backend={backend}", "cluster=4x8", f"{ROLLOUT}.n=2"))
    for key, value in changes.items():
        OmegaConf.update(base, key, value, force_add=True)
    return base


@pytest.mark.parametrize("backend", ["fsdp", "megatron", "cpu"])
@pytest.mark.parametrize("algo", ["espo", "tepo", "max_entropy"])
def test_shipped_combinations_have_no_fault(algo: str, backend: str) -> None:
    assert check(config(algo, backend, **{"trainer.device": "cuda", f"{ACTOR}.use_dynamic_bsz": True})) == []


# algo, backend, changes -> parts of the one fault. 4 nodes of 8 GPUs: 32 ranks, or 8 groups of Megatron's 4.
ONE_FAULT = {
    "train below mini": (
        ("grpo", "fsdp", {"data.train_batch_size": 128}),
        ["data.train_batch_size=128", "ppo_mini_batch_size=256", "below"],
    ),
    "train no multiple": (("grpo", "fsdp", {"data.train_batch_size": 384}), ["=384 is no multiple of", "=256"]),
    # 36 prompts * 6 responses = 216 rows; 216 / 32 = 6.75
    "mini over ranks": (
        ("grpo", "fsdp", {"data.train_batch_size": 72, f"{ACTOR}.ppo_mini_batch_size": 36, f"{ROLLOUT}.n": 6}),
        ["= 216 rows cannot be divided among 32 data parallel ranks"],
    ),
    # 14 prompts * 2 responses = 28 rows over 8 groups of 4 GPUs
    "mini over Megatron's ranks": (
        ("grpo", "megatron", {"data.train_batch_size": 14, f"{ACTOR}.ppo_mini_batch_size": 14}),
        ["= 28 rows cannot be divided among 8 data parallel ranks"],
    ),
    # 256 * 4 / 32 = 32 rows a GPU
    "micro": (
        (
            "grpo",
            "fsdp",
            {
                f"{ACTOR}.use_dynamic_bsz": False,
                f"{ACTOR}.ppo_micro_batch_size_per_gpu": 5,
                f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 4,
                f"{ROLLOUT}.n": 4,
            },
        ),
        ["32 rows a GPU", "ppo_micro_batch_size_per_gpu=5"],
    ),
    "verl's own": (
        ("grpo", "fsdp", {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 4}),
        ["actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu", "Please set"],
    ),
    "verl's rollout": (
        ("grpo", "fsdp", {f"{ROLLOUT}.expert_parallel_size": 3}),
        ["expert_parallel_size must be equal"],
    ),
    "model length": (("grpo", "fsdp", {f"{ROLLOUT}.max_model_len": 1000}), ["= 1024 tokens", "max_model_len=1000"]),
    "micro-batch's tokens": (
        ("grpo", "fsdp", {f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 1023}),
        ["= 1024 tokens", "log_prob_max_token_len_per_gpu=1023"],
    ),
    "replicas": (("grpo", "fsdp", {f"{ROLLOUT}.tensor_model_parallel_size": 5}), ["32 GPUs", "replicas of 5"]),
    "sequence parallel": (
        ("grpo", "fsdp", {f"{ACTOR}.ulysses_sequence_parallel_size": 3}),
        ["= 32 GPUs", "groups of 3"],
    ),
    "experts": (
        ("grpo", "megatron", {f"{ACTOR}.megatron.expert_model_parallel_size": 5}),
        ["32 GPUs", "groups of 5", "expert_model"],
    ),
    "R3 on FSDP": (
        ("grpo", "fsdp", {f"{ROLLOUT}.enable_rollout_routing_replay": True}),
        ["enable_rollout_routing_replay=true", "FSDP cannot replay", "backend=megatron"],
    ),
    "R3 in FSDP's engine": (
        ("grpo", "fsdp", {f"{ACTOR}.fsdp_config.router_replay": {"mode": "R3"}}),
        ["fsdp_config.router_replay.mode=R3", "FSDP cannot replay"],
    ),
    "R3 at one end": (
        ("grpo", "megatron", {f"{ACTOR}.megatron.router_replay.mode": "R3"}),
        ["router_replay.mode=R3", "enable_rollout_routing_replay=false"],
    ),
    "R3 at the other end": (
        ("grpo", "megatron", {f"{ROLLOUT}.enable_rollout_routing_replay": True}),
        ["router_replay.mode=disabled", "nobody reads"],
    ),
    "R2 in bypass mode": (
        (
            "grpo",
            "megatron",
            {f"{ACTOR}.megatron.router_replay.mode": "R2", "algorithm.rollout_correction.bypass_mode": True},
        ),
        ["router_replay.mode='R2' requires"],
    ),
    "clip range": (
        ("grpo", "fsdp", {f"{ACTOR}.clip_ratio_low": 3e-4, f"{ACTOR}.clip_ratio_high": 4e-4}),
        ["clip_ratio_low=0.0003", "vanilla clips the ratio of each token"],
    ),
    "aggregation": (("espo", "fsdp", {f"{ACTOR}.loss_agg_mode": "token-mean"}), ["loss_agg_mode=token-mean", "espo"]),
    "entropy source": (("tepo", "fsdp", {f"{ACTOR}.calculate_entropy": False}), ["calculate_entropy=false", "tepo"]),
    "entropy in bfloat16": (
        ("espo", "fsdp", {f"{ACTOR}.entropy_from_logits_with_chunking": False}),
        ["bf16 logits", "entropy_from_logits_with_chunking=true"],
    ),
    "padded entropy": (
        ("max_entropy", "fsdp", {f"{MODEL}.use_remove_padding": False}),
        ["entropy_coeff reads", "use_remove_padding=true"],
    ),
    "one response": (("grpo", "fsdp", {f"{ROLLOUT}.n": 1}), ["rollout.n=1: the estimator grpo compares", "2 or more"]),
    "LoRA": (("grpo", "fsdp", {f"{MODEL}.lora_rank": 1024}), ["lora_rank=1024", "512"]),
    "engines mixed": (
        ("grpo", "megatron", {f"{ACTOR}.strategy": "fsdp2"}),
        ["strategy=fsdp2", "model_engine=megatron; add model_engine=dp"],
    ),
    "a clip width": (("tepo", "fsdp", {f"{ACTOR}.clip_ratio_low": -0.2}), [f"{ACTOR}.clip_ratio_low=-0.2 must be"]),
    "a hyper-parameter": (("espo", "fsdp", {f"{LOSS}.alpha": -1}), ["alpha=-1"]),
    "no value": (("grpo", "fsdp", {f"{ROLLOUT}.name": "???"}), ["rollout.name has no value; choose a backend"]),
    "an interpolation": (("grpo", "fsdp", {"data.seed": "${data.nothing}"}), ["data.nothing"]),
}


@pytest.mark.parametrize("name", ONE_FAULT)
def test_one_fault(name: str) -> None:
    (algo, backend, changes), parts = ONE_FAULT[name]
    found = check(config(algo, backend, **changes))
    assert len(found) == 1, found
    assert all(part in found[0] for part in parts), found


def test_all_faults_at_once_verls_included() -> None:
    names = ["verl's rollout", "model length", "R3 on FSDP", "clip range", "LoRA", "train below mini"]
    changes = {key: value for name in names for key, value in ONE_FAULT[name][0][2].items()}
    found = check(config("grpo", "fsdp", **changes))
    assert len(found) == len(names)
    for name in names:
        assert any(ONE_FAULT[name][1][-1] in fault for fault in found), (name, found)


def test_float32_engines_need_no_chunking() -> None:
    exact = {f"{ACTOR}.fsdp_config.mixed_precision.param_dtype": "fp32"}
    off = {f"{ACTOR}.entropy_from_logits_with_chunking": False, f"{MODEL}.use_remove_padding": False}
    assert check(config("espo", "fsdp", **off, **exact)) == []


def test_only_methods_that_read_entropies_need_them_in_float32() -> None:
    assert check(config("grpo", "fsdp", **{f"{ACTOR}.entropy_from_logits_with_chunking": False})) == []


def test_gspo_with_a_range_for_tokens_is_a_note() -> None:
    wide = config("gspo", "fsdp", **{f"{ACTOR}.clip_ratio_low": 0.2, f"{ACTOR}.clip_ratio_high": 0.28})
    findings = examine(wide)
    assert findings.faults == []
    assert any("gspo" in note and "3e-4" in note for note in findings.notes)
    assert not any("gspo" in note for note in examine(config("gspo", "fsdp")).notes)


def test_espos_alpha_left_to_its_default_is_a_note() -> None:
    loss = f"{ACTOR}.policy_loss"

    def told(algo: str, **given: Any) -> list[str]:
        return [note for note in notes.notes(config(algo, "fsdp", **given)) if "alpha is not given" in note]

    (note,) = told("espo")
    assert "default of 0.02" in note
    assert "was 0.1" in note
    for given in ({f"{loss}.alpha": 0.02}, {f"{loss}.clip": "fixed"}):
        assert told("espo", **given) == []
    assert told("sspo") == []


def test_gmpos_mean_over_micro_batches_is_a_note() -> None:
    assert any("geo_mean" in note for note in notes.notes(config("gmpo", "fsdp")))
    assert not any("geo_mean" in note for note in notes.notes(config("gspo", "fsdp")))


# What is wrong, in settings that verl looks at as well: told once, in our words.
BY_ROWS = {
    f"{ACTOR}.use_dynamic_bsz": False,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 4,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 4,
}
TOLD_ONCE = {
    "below": ("grpo", "fsdp", {**BY_ROWS, "data.train_batch_size": 128}, "not one mini-batch"),
    "rows": (
        "grpo",
        "fsdp",
        {**BY_ROWS, "data.train_batch_size": 100, f"{ACTOR}.ppo_mini_batch_size": 100, f"{ROLLOUT}.n": 5},
        "= 500 rows cannot be divided",
    ),
    "groups of GPUs": (
        "grpo",
        "megatron",
        {**BY_ROWS, f"{ACTOR}.megatron.tensor_model_parallel_size": 3},
        "groups of 3",
    ),
    "_target_": (
        "grpo",
        "fsdp",
        {f"{LOSS}.loss_mode": "dcpo", f"{LOSS}.r_max": 3.0},
        "r_max need actor_rollout_ref.actor.policy_loss._target_=verl_ext.config.DCPOLossConfig",
    ),
    "aggregation": ("espo", "fsdp", {f"{ACTOR}.loss_agg_mode": "token-meen"}, "aggregates with"),
}


@pytest.mark.parametrize("name", TOLD_ONCE)
def test_one_fault_is_one_line(name: str) -> None:
    algo, backend, changes, part = TOLD_ONCE[name]
    found = check(config(algo, backend, **changes))
    assert [part in fault for fault in found] == [True], found


def test_every_pair_of_doubles_is_one_that_verl_raises() -> None:
    """Each key is part of a sentence of this verl; one that it no longer says would hide nothing, or another."""
    import inspect

    from verl.utils import config as verl_config
    from verl.workers.config import actor

    said = inspect.getsource(inspect.unwrap(verl_config.validate_config)) + inspect.getsource(actor)
    assert [words for words in TOLD_BY_US if words not in said] == ["got an unexpected keyword argument"]  # Python's


@pytest.mark.parametrize("given", ["consol", ["console", "wandbb"], ["file", "tensorbord"]])
def test_an_unknown_logger_is_a_fault(given: object) -> None:
    (fault,) = check(config("grpo", "fsdp", **{"trainer.logger": given}))
    assert "no such logger; did you mean" in fault


def test_loggers_that_verl_has_are_none() -> None:
    assert check(config("grpo", "fsdp", **{"trainer.logger": ["console", "wandb", "tracking"]})) == []


def test_the_configuration_is_left_as_it_is() -> None:
    before = config("espo", "megatron", **{f"{MODEL}.lora_rank": 8})
    after = copy.deepcopy(before)
    check(after)
    assert after == before


def test_layouts() -> None:
    assert layout(config("grpo", "megatron")).data_parallel == 8  # 32 GPUs / tensor parallel 4
    plan = layout(config("grpo", "fsdp", **{f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 2}))
    assert (plan.data_parallel, plan.sequence_parallel) == (16, 2)

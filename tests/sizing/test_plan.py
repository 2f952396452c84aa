"""Phases, what helps, and the command."""

from __future__ import annotations

import copy
import io
import json
import re

import pytest
import yaml
from omegaconf import OmegaConf
from rich.console import Console

from tests.sizing.runs import FSDP, MEGATRON, fsdp, megatron
from verl_ext.sizing import knobs, report
from verl_ext.sizing.gpus import GIB, GPUS, device
from verl_ext.sizing.measuring import measure
from verl_ext.sizing.planning import ASLEEP, RESERVE, Plan, plan
from verl_ext.sizing.reading import read
from verl_ext.sizing.settings import Settings
from verl_ext.train import compose
from verl_ext.train.plan import plan as command

DENSE = measure("Qwen/Qwen2.5-7B")
MOE = measure("Qwen/Qwen3-30B-A3B-Base")
SEVEN = ["experiment=espo", "backend=fsdp", "cluster=1x8", "model=qwen2_5_7b", "algo=espo"]
THIRTY = ["experiment=espo", "backend=megatron", "cluster=2x8", "model=qwen3_30b_a3b_base", "algo=espo"]


def planned(settings: Settings = FSDP, gpu: str = "h100-80gb") -> Plan:
    return plan(MOE if settings.megatron else DENSE, settings, device(gpu))


def phase(found: Plan, name: str) -> dict[str, float]:
    return next(one.parts for one in found.phases if one.name == name)


def test_settings_of_the_shipped_configurations() -> None:
    assert read(compose(SEVEN).config) == FSDP
    assert read(compose(THIRTY).config) == MEGATRON


def test_the_rollouts_take_their_share_of_the_memory() -> None:
    parts = phase(planned(), "rollout")
    engine = sum(parts[name] for name in ("vLLM weights", "vLLM workspace", "KV cache"))
    assert engine == pytest.approx(0.6 * 79.1 * GIB)
    assert sum(parts.values()) == pytest.approx(engine + (4 + 8) * DENSE.total / 8 + RESERVE)


def test_offloaded_states_are_not_there_while_the_rollouts_run() -> None:
    parts = phase(planned(fsdp(param_offload=True, optimizer_offload=True)), "rollout")
    assert (parts["parameters"], parts["optimizer"]) == (0, 0)
    update = phase(planned(fsdp(param_offload=True, optimizer_offload=True)), "update")
    assert update == phase(planned(), "update")
    host = planned(fsdp(param_offload=True, optimizer_offload=True)).host
    assert (host["parameters"], host["optimizer"]) == (4 * DENSE.total, 8 * DENSE.total)


def test_an_engine_that_does_not_sleep_is_beside_everything() -> None:
    awake, asleep = phase(planned(fsdp(sleeps=False)), "update"), phase(planned(), "update")
    assert asleep["vLLM, asleep"] == ASLEEP
    assert sum(awake.values()) - sum(asleep.values()) == pytest.approx(0.6 * 79.1 * GIB - ASLEEP)


def test_rollouts_on_gpus_of_their_own() -> None:
    found = planned(fsdp(apart=True, rollout_gpus=4))
    assert "parameters" not in phase(found, "rollout")
    assert "vLLM, asleep" not in phase(found, "update")
    assert found.engine.replicas == 4


def test_a_published_measurement() -> None:
    """Qwen3-14B, all parameters trained in float32 with FSDP on two GPUs, one row of 4,096 tokens: 124.5 GB a GPU.

    Of these 118.15 GB are states, 16 bytes for each of 14,768,307,200 parameters among two GPUs. docs/measured.md says
    where this was read, and what differs from a run of verl.
    """
    settings = fsdp(gpus_per_node=2, shards=2, dynamic=False, update_limit=1, prompt_tokens=96, response_tokens=4000)
    found = plan(measure("Qwen/Qwen3-14B"), settings, device("b200"))
    states = found.states.parameters + found.states.gradients + found.states.optimizer
    assert states == 236_292_915_200 / 2
    update = next(one for one in found.phases if one.name == "update")
    assert update.total - ASLEEP - RESERVE == pytest.approx(124.5e9, rel=0.1)


def test_verls_example_for_30b_on_eight_gpus_of_96_gb_fits() -> None:
    """TP 1, EP 8, the optimizer on the host, rollouts on four GPUs each."""
    example = megatron(tensor=1, nodes=1, rollout_gpus=8, optimizer_on_cpu=True)
    assert planned(example, "h20-96gb").fits
    assert not planned(megatron(tensor=1, nodes=1, rollout_gpus=8), "h20-96gb").fits


@pytest.mark.parametrize("base", [FSDP, MEGATRON, fsdp(entropy=True, chunking=False, checkpointing=False)])
def test_what_helps_is_a_setting_that_verl_has(base: Settings) -> None:
    """The configuration with the proposed override gives the settings that were tried."""
    arguments = THIRTY if base.megatron else SEVEN
    own = {"entropy": "actor_rollout_ref.actor.calculate_entropy=true"}
    if base is not FSDP and not base.megatron:
        arguments = [
            *arguments, own["entropy"], "actor_rollout_ref.actor.entropy_from_logits_with_chunking=false",
            "actor_rollout_ref.model.enable_gradient_checkpointing=false",
        ]  # fmt: skip
    config = compose(arguments).config
    assert read(config) == base
    # As Hydra does with an override without a plus: an unknown key is an error.
    OmegaConf.set_struct(config, True)
    checked = 0
    for setting, _, changed in knobs._candidates(base):
        if not re.fullmatch(r"[\w.]+=[\w.-]+", setting):
            continue
        key, value = setting.split("=")
        own_copy = copy.deepcopy(config)
        OmegaConf.update(own_copy, key, yaml.safe_load(value), force_add="override_optimizer_config" in key)
        assert read(own_copy) == changed, setting
        checked += 1
    assert checked >= 6


def test_what_helps_is_sorted_and_says_by_how_much() -> None:
    before = planned(fsdp(gpus_per_node=2, shards=2, rollout_gpus=2))
    assert not before.fits
    found = knobs.helpful(before)
    assert [knob.fits for knob in found] == sorted((knob.fits for knob in found), reverse=True)
    named = {knob.setting: knob for knob in found}
    lower = named["actor_rollout_ref.rollout.gpu_memory_utilization=0.5"]
    assert lower.saved == pytest.approx(0.1 * 79.1 * GIB)
    offload = named["actor_rollout_ref.actor.fsdp_config.optimizer_offload=true"]
    # The rollout was the fullest phase; then it is the update, which needs the optimizer all the same.
    assert 0 < offload.saved < 8 * DENSE.total / 2


def test_several_settings_together() -> None:
    before = plan(MOE, fsdp(), device("h100-80gb"))
    assert not any(knob.fits for knob in knobs.helpful(before) if "lora" not in knob.setting)
    found = knobs.together(before)
    assert 2 <= len(found) <= knobs.MOST_TOGETHER
    assert found[-1].fits
    assert knobs.together(planned()) == []


def test_a_model_that_is_far_too_large_says_so() -> None:
    before = plan(MOE, fsdp(gpus_per_node=1, shards=1, rollout_gpus=1, nodes=1), device("a100-40gb"))
    assert knobs.together(before) == []
    console = Console(file=io.StringIO(), soft_wrap=True)
    report.show(before, "a100-40gb", [], console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "do not suffice either" in said
    assert "no sequence of 10240 tokens fits into the cache" in said


def run(*arguments: str, **options) -> tuple[int, str]:
    console = Console(file=io.StringIO(), soft_wrap=True, highlight=False, markup=False, width=160)
    status = command(list(arguments), console=console, **options)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def test_the_command_on_a_run_that_fits() -> None:
    status, text = run(*SEVEN)
    assert status == 0
    assert "Qwen/Qwen2.5-7B: 7,615,616,512 parameters" in text
    assert text.rstrip().endswith("fits")


def test_the_command_on_a_run_that_does_not_fit() -> None:
    status, text = run(*SEVEN, "actor_rollout_ref.rollout.gpu_memory_utilization=0.9")
    assert status == 1
    assert "does not fit: rollout needs" in text
    # 0.1 x 79.1 GiB
    assert re.search(r"gpu_memory_utilization=0.8: 7.9 GiB less, fits", text)


def test_json_of_the_tiny_model_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run("experiment=demo", "backend=cpu", "model=tiny_moe", "algo=grpo", as_json=True)
    assert (status, text) == (0, "")
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["parameters"] == 527_360
    assert found["model"]["active_parameters"] == 232_448
    assert found["gpu"]["name"] == "cpu"
    update = found["phases"]["update"]
    assert update["parameters"] == 4 * 527_360
    assert update["process"] == 727 * 2**20
    assert update["kept from a sync"] == 4 * 527_360
    assert found["phases"]["rollout"]["process"] == 686 * 2**20
    assert update["total"] == pytest.approx(sum(size for name, size in update.items() if name != "total"))


def test_json_where_nothing_can_be_generated(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SEVEN, "actor_rollout_ref.rollout.gpu_memory_utilization=0.1"]
    assert run(*arguments, as_json=True)[0] == 1
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["step"]["total_seconds"] is None
    assert found["missing"]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (["algo=sspo", "model=qwen2_5_7b"], {}, "has no value"),
        ([*SEVEN, "data.train_batch_size=100"], {}, "mini"),
        ([*SEVEN, "actor_rollout_ref.rollout.tensor_model_parallel_size=3"], {}, "cannot be divided"),
        ([*SEVEN, "actor_rollout_ref.model.path=no/model"], {}, "sizes of no/model are not known"),
        (["algo=nothing"], {}, "nothing"),
        ([*SEVEN, "algorithm.adv_estimator=grpo"], {}, "algo=espo would not run"),
        (SEVEN, {"gpu": "h1000"}, "choose one of a100-40gb"),
    ],
)
def test_faults_are_told(arguments: list[str], options: dict[str, str], said: str) -> None:
    status, text = run(*arguments, **options)
    assert status == 1
    assert said in text


def test_gpus() -> None:
    assert all(one.memory > 30 * GIB for one in GPUS.values())
    assert device("cpu").memory > GIB
    assert megatron().gpus == 16

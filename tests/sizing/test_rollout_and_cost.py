"""Rollout engines, operations and times: hand counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sizing.runs import fsdp, megatron
from verl_ext.sizing.configuration import parse, read
from verl_ext.sizing.cost import (
    BANDWIDTH_EFFICIENCY,
    HOST_BANDWIDTH,
    TRAIN_EFFICIENCY,
    cost,
    forward,
    moved_bytes,
    rollout_seconds,
)
from verl_ext.sizing.gpus import GIB, device
from verl_ext.sizing.measuring import measure
from verl_ext.sizing.rollout import engine, kept

DENSE = measure("Qwen/Qwen2.5-7B")
MOE = measure("Qwen/Qwen3-30B-A3B-Base")
H100 = device("h100-80gb")


def test_an_engine_by_hand() -> None:
    found = engine(DENSE, fsdp(), 80 * GIB)
    assert found.weights == 2 * 7_615_616_512
    # Keys and values of 28 layers, 4 heads of 128 in 2 bytes.
    assert kept(DENSE, fsdp(), 1) == 2 * 28 * 4 * 128 * 2 == 57_344
    assert found.longest == 57_344 * 10_240
    assert found.cache == pytest.approx(0.6 * 80 * GIB - found.weights - found.workspace)
    assert found.together == pytest.approx(found.cache / (57_344 * 10_240))
    assert found.replicas == 8


def test_tensor_parallel_engines() -> None:
    found = engine(DENSE, fsdp(rollout_tensor=2), 80 * GIB)
    assert found.weights == (2 * (DENSE.total - DENSE.replicated)) / 2 + 2 * DENSE.replicated
    assert (found.longest, found.replicas) == (57_344 / 2 * 10_240, 4)
    # Four heads among eight GPUs: each has a whole one.
    assert kept(DENSE, fsdp(rollout_tensor=8), 1) == 57_344 / 4
    spread = engine(MOE, megatron(rollout_tensor=1, rollout_data=8, rollout_expert=8), 80 * GIB)
    assert spread.weights == 2 * (MOE.total - MOE.expert + MOE.expert / 8)
    assert spread.replicas == 2


def test_a_token_by_verls_own_counter() -> None:
    from verl.utils.flops_counter import _estimate_qwen2_flops

    config = parse("Qwen/Qwen2.5-7B", read("Qwen/Qwen2.5-7B")[0])
    for length in (512, 4096):
        verl = _estimate_qwen2_flops(config, length, [length], 1.0) * 1e12
        # verl multiplies with the input embedding as well, forwards and backwards.
        embedding = 6 * 152_064 * 3584 * length
        assert 3 * length * forward(DENSE, length) == pytest.approx(verl - embedding)


def test_a_step_by_hand() -> None:
    settings = fsdp()
    found = cost(DENSE, settings, engine(DENSE, settings, H100.memory), H100, moved=0.0)
    tokens = 256 * 16 * (200 + 4096)
    once = 2 * 7_070_285_824 + 2 * 28 * 3584 * 4296
    assert found.tokens == tokens
    assert found.operations["old_log_probs"] == tokens * once
    head = 2 * 152_064 * 3584
    assert found.operations["update"] == tokens * (4 * once - head)
    assert found.operations["rollout"] == (256 * 200 + 4096 * 4096) * once
    assert found.seconds["old_log_probs"] == pytest.approx(tokens * once / (8 * 989e12 * TRAIN_EFFICIENCY))
    plain = cost(DENSE, fsdp(checkpointing=False, epochs=2), engine(DENSE, settings, H100.memory), H100, 0.0)
    assert plain.operations["update"] == 2 * tokens * 3 * once


def test_passes_that_are_not_made() -> None:
    settings = fsdp(old_log_probs=False, reference=True, lora_rank=8, checkpointing=False)
    found = cost(DENSE, settings, engine(DENSE, settings, H100.memory), H100, moved=25e9)
    assert found.operations["old_log_probs"] == 0
    assert found.operations["reference"] > 0
    assert found.operations["update"] == pytest.approx(2 * found.operations["reference"])
    assert found.seconds["offload"] == 25e9 / HOST_BANDWIDTH


def test_generation_by_hand() -> None:
    # 8 prompts x 1 response, 8 engines: one sequence each, bound by reading the weights.
    settings = fsdp(prompts=8, responses=1, prompt_tokens=100, response_tokens=2000)
    one = engine(DENSE, settings, H100.memory)
    step = (one.weights + (100 + 500) * 57_344) / (3.35e12 * BANDWIDTH_EFFICIENCY)
    prefill = 100 * forward(DENSE, 100) / (989e12 * 0.4)
    assert rollout_seconds(DENSE, settings, one, H100) == pytest.approx(1000 * step + prefill)


def test_a_step_of_experts_reads_the_experts_that_are_met() -> None:
    settings = megatron(prompts=4, responses=1, prompt_tokens=100, response_tokens=2000)
    one = engine(MOE, settings, H100.memory)
    # A single sequence an engine meets 8 of 128 experts.
    assert one.replicas == 4
    read = one.weights * (1 - MOE.expert / MOE.total * (1 - 8 / 128)) + kept(MOE, settings, 600)
    got = rollout_seconds(MOE, settings, one, H100)
    assert got == pytest.approx(1000 * read / (3.35e12 * BANDWIDTH_EFFICIENCY), rel=0.01)


def test_nothing_is_generated_without_a_cache() -> None:
    settings = megatron(rollout_tensor=1, rollout_expert=1)
    assert math.isinf(rollout_seconds(MOE, settings, engine(MOE, settings, H100.memory), H100))


@given(st.integers(1, 512), st.floats(0.5, 0.9))
def test_more_room_never_takes_longer(running: int, utilization: float) -> None:
    def seconds(share: float) -> float:
        settings = fsdp(running=running, utilization=share)
        return rollout_seconds(DENSE, settings, engine(DENSE, settings, H100.memory), H100)

    assert seconds(utilization + 0.05) <= seconds(utilization) * (1 + 1e-9)


def test_what_offloading_moves() -> None:
    # There and back for update, log-probs and weight sync; the optimizer for the update alone.
    assert moved_bytes(DENSE, fsdp(param_offload=True, optimizer_offload=True), 10.0, 20.0) == 6 * 10 + 2 * 20
    assert moved_bytes(DENSE, fsdp(), 10.0, 20.0) == 0

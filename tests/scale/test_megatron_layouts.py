"""Qwen3-30B-A3B on Megatron, on 4 and 8 nodes of 8 GPUs, with router replay: composed, checked, laid out.

The layouts are also handed to Megatron's own code, where it can be found (tests/bridge/test_megatron.py says where):
its groups of 32 or 64 ranks over a process group that does nothing, and its own look at the model's sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from verl.utils.config import omega_conf_to_dataclass

from tests.scale.megatron_core import find_megatron
from verl_ext.checks import fitness
from verl_ext.checks import megatron as rules
from verl_ext.sizing.layout import layout
from verl_ext.train import check, compose

ENGINE = "actor_rollout_ref.actor.megatron"
SENDS = "actor_rollout_ref.rollout.enable_rollout_routing_replay"
NODES = {"4x8": 32, "8x8": 64}
R2 = {f"{ENGINE}.router_replay.mode": "R2"}
R3 = {f"{ENGINE}.router_replay.mode": "R3", SENDS: True}
REPLAY = {"off": {}, "R2": R2, "R3": R3}


def parallel(tensor: int, stages: int, experts: int, virtual: int | None = None, context: int = 1) -> dict[str, Any]:
    """Parallel sizes, with one GPU for each piece of an expert."""
    return {
        f"{ENGINE}.tensor_model_parallel_size": tensor,
        f"{ENGINE}.pipeline_model_parallel_size": stages,
        f"{ENGINE}.virtual_pipeline_model_parallel_size": virtual,
        f"{ENGINE}.context_parallel_size": context,
        f"{ENGINE}.expert_model_parallel_size": experts,
        f"{ENGINE}.expert_tensor_parallel_size": 1,
    }


# layout -> ranks that share one copy of the data. 48 layers, 32 heads, 4 key-value heads, 128 experts.
LAYOUTS = {
    "as shipped": ({}, 4),
    "tp4 pp1 ep8": (parallel(4, 1, 8), 4),
    "tp2 pp2 ep8": (parallel(2, 2, 8), 4),
    "tp4 pp2 vpp3 ep16": (parallel(4, 2, 16, virtual=3), 8),
    "tp1 pp4 vpp2 ep8": (parallel(1, 4, 8, virtual=2), 4),
    "tp2 pp1 cp2 ep16": (parallel(2, 1, 16, context=2), 4),
    "tp8 pp1 ep32": (parallel(8, 1, 32), 8),  # each key-value head twice
}


@cache
def composed(nodes: str) -> DictConfig:
    """A run of ESPO's table; the group choices of `recipes/espo`, on as many nodes."""
    arguments = ["experiment=espo/table1/espo", "backend=megatron", "model=qwen3_30b_a3b_base", f"cluster={nodes}"]
    return compose(arguments).config


def changed(nodes: str, *changes: dict[str, Any]) -> DictConfig:
    config = copy.deepcopy(composed(nodes))
    for key, value in (pair for change in changes for pair in change.items()):
        OmegaConf.update(config, key, value, force_add=True)
    return config


def all_faults(config: DictConfig) -> list[str]:
    """verl's own checks and ours."""
    found = check(config)
    return found + [fault for fault in rules.faults(config) if fault not in found]


@pytest.mark.parametrize("replay", REPLAY)
@pytest.mark.parametrize("nodes", NODES)
def test_shipped_sizes_are_sound_with_and_without_replay(nodes: str, replay: str) -> None:
    config = changed(nodes, REPLAY[replay])
    assert all_faults(config) == []
    assert config.trainer.nnodes * config.trainer.n_gpus_per_node == NODES[nodes]
    assert layout(config).data_parallel == NODES[nodes] // 4


@pytest.mark.parametrize("replay", REPLAY)
def test_verls_classes_take_the_mode(replay: str) -> None:
    """What the worker will read, built by verl from the composed configuration."""
    config = changed("4x8", REPLAY[replay])
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert actor.megatron.router_replay.mode == ("disabled" if replay == "off" else replay)
    assert actor.engine is actor.megatron
    assert rollout.enable_rollout_routing_replay is (replay == "R3")
    assert actor.megatron.override_transformer_config["moe_router_dtype"] == "fp32"


@pytest.mark.parametrize("nodes", NODES)
def test_other_layouts_are_sound(nodes: str) -> None:
    for name, (sizes, share) in LAYOUTS.items():
        config = changed(nodes, sizes)
        assert fitness.layout_faults(config) + fitness.batch_faults(config) + rules.faults(config) == [], name
        assert layout(config).data_parallel == NODES[nodes] // share, name


# changes -> parts of the one sentence
REFUSED = {
    "R3 that nobody sends": ({f"{ENGINE}.router_replay.mode": "R3"}, ["router_replay.mode=R3", "replays what"]),
    "sent and not replayed": ({SENDS: True}, ["router_replay.mode=disabled", "nobody reads"]),
    "R2 and sent": ({**R2, SENDS: True}, ["router_replay.mode=R2", "enable_rollout_routing_replay=true"]),
    "R2 without the pass that records": (
        {**R2, "algorithm.rollout_correction.bypass_mode": True},
        ["router_replay.mode='R2'", "bypass_mode=False"],
    ),
    "no such mode": ({f"{ENGINE}.router_replay.mode": "R4"}, ["Invalid router_replay mode: R4"]),
    "padded to a length": ({**R3, f"{ENGINE}.pad_to_length": True}, ["router_replay.mode=R3", "pad_to_length=true"]),
    "a model without a router": (
        {**R2, "actor_rollout_ref.model.path": "Qwen/Qwen3-14B", **parallel(4, 1, 1)},
        ["router_replay.mode=R2", "Qwen/Qwen3-14B has no router"],
    ),
    "experts of a dense model": (
        {"actor_rollout_ref.model.path": "Qwen/Qwen3-14B"},
        ["expert_model_parallel_size=8", "Qwen/Qwen3-14B has no experts"],
    ),
    "interleaved without a pipeline": (
        parallel(4, 1, 8, virtual=2),
        ["virtual_pipeline_model_parallel_size=2 with pipeline_model_parallel_size=1"],
    ),
    # 48 / (2 * 5) = 4.8
    "layers": (parallel(4, 2, 8, virtual=5), ["= 10 do not divide the 48 layers"]),
    # 64 GPUs divide by 64 * 1 * 1, and 128 experts by 64; 16 does not divide by 3
    "experts over GPUs": (parallel(4, 1, 3), ["64 GPUs cannot be divided into groups of 3"]),
    # 32 heads divide by 64 not at all
    "heads": (parallel(64, 1, 8), ["tensor_model_parallel_size=64", "32 heads and 4 key-value heads"]),
    "pipeline over GPUs": (parallel(4, 12, 1), ["64 GPUs cannot be divided into groups of 48"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_combinations_are_refused_in_a_sentence(name: str) -> None:
    changes, parts = REFUSED[name]
    found = all_faults(changed("8x8", changes))
    told = [fault for fault in found if all(part in fault for part in parts)]
    assert len(told) == 1, found
    assert not any("Traceback" in fault for fault in found)


def test_fsdp_refuses_replay() -> None:
    config = compose(
        ["algo=espo", "backend=fsdp", "cluster=4x8", "model=qwen3_30b_a3b_base", "actor_rollout_ref.rollout.n=8"]
    ).config
    OmegaConf.update(config, SENDS, True)
    (fault,) = all_faults(config)
    assert "FSDP cannot replay" in fault


# --- Megatron's own code


@contextmanager
def ranks(world: int) -> Iterator[None]:
    """A process group of so many ranks, of which only this one exists."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def sizes_of(engine: Any) -> dict[str, Any]:
    """All parallel sizes, under the names that they have in verl and in Megatron."""
    return {key.removeprefix(f"{ENGINE}."): engine[key.removeprefix(f"{ENGINE}.")] for key in parallel(1, 1, 1)}


def initialise(engine: Any) -> None:
    """Megatron's groups of ranks, with the arguments that verl's engine gives them."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(**sizes_of(engine), create_gloo_process_groups=False)


def lay_out(engine: Any, path: str) -> None:
    initialise(engine)
    look_at_sizes(engine, path)


def look_at_sizes(engine: Any, path: str) -> None:
    """Megatron's own look at the model's sizes under these parallel sizes."""
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_block import get_num_layers_to_build

    model = rules.sizes(path)
    assert model is not None
    config = TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        num_attention_heads=32,
        num_query_groups=model.heads_key_value,
        num_moe_experts=model.experts,
        add_bias_linear=False,
        pipeline_dtype=torch.bfloat16,
        **sizes_of(engine),
        sequence_parallel=engine.tensor_model_parallel_size > 1,
    )
    assert get_num_layers_to_build(config, vp_stage=0, pp_rank=0) > 0


needs_megatron = pytest.mark.skipif(not find_megatron(), reason="megatron-core is not there; see megatron_core.py")


@needs_megatron
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("nodes", NODES)
def test_megatron_lays_the_ranks_out(nodes: str, name: str) -> None:
    from megatron.core import parallel_state

    config = changed(nodes, LAYOUTS[name][0])
    actor = config.actor_rollout_ref.actor
    with ranks(NODES[nodes]):
        try:
            lay_out(actor.megatron, config.actor_rollout_ref.model.path)
            assert parallel_state.get_data_parallel_world_size() == layout(config).data_parallel
            experts = parallel_state.get_expert_model_parallel_world_size()
            assert experts == actor.megatron.expert_model_parallel_size
        finally:
            parallel_state.destroy_model_parallel()


# Refused above in our words, here in Megatron's.
BY_MEGATRON = {"interleaved without a pipeline", "experts over GPUs", "pipeline over GPUs", "heads", "layers"}


@needs_megatron
@pytest.mark.parametrize("name", sorted(BY_MEGATRON))
def test_megatron_refuses_what_we_refuse(name: str) -> None:
    from megatron.core import parallel_state

    config = changed("8x8", REFUSED[name][0])
    engine = config.actor_rollout_ref.actor.megatron
    with ranks(64):
        try:
            with pytest.raises((RuntimeError, ValueError, AssertionError)):
                lay_out(engine, config.actor_rollout_ref.model.path)
        finally:
            parallel_state.destroy_model_parallel()

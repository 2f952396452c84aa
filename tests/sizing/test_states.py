"""Parameters, gradients and optimizer on one GPU: hand counts, and what must add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sizing.runs import fsdp, megatron
from verl_ext.sizing.measuring import measure
from verl_ext.sizing.states import states

DENSE = measure("Qwen/Qwen2.5-7B")
MOE = measure("Qwen/Qwen3-30B-A3B-Base")


def test_fsdp_by_hand() -> None:
    found = states(DENSE, fsdp())
    share = 7_615_616_512 / 8
    assert (found.parameters, found.gradients, found.optimizer) == (4 * share, 4 * share, 8 * share)
    # The largest part is the output layer, and with it a layer that is fetched ahead.
    head, layer = 152_064 * 3584, 233_057_792
    assert found.gathered == 2 * (head + layer)
    assert found.gathered_backward == found.gathered + (2 + 4) * head


def test_weights_in_bfloat16_halve_everything_that_is_kept() -> None:
    wide, narrow = states(DENSE, fsdp()), states(DENSE, fsdp(weight=2))
    assert narrow.optimizer == wide.optimizer / 2
    assert narrow.parameters == wide.parameters / 2


def test_a_shared_embedding_stays_gathered() -> None:
    tied = measure("Qwen/Qwen2.5-1.5B")
    assert states(tied, fsdp()).gathered == 2 * (151_936 * 1536 + 2 * tied.largest_layer)


def test_lora_trains_and_keeps_the_adapters_alone() -> None:
    found = states(DENSE, fsdp(lora_rank=32))
    # Rank 32 on q, k, v, o, gate, up and down of 28 layers:
    ends = (3584 + 3584) + 2 * (3584 + 512) + (3584 + 3584) + 3 * (3584 + 18_944)
    adapters = 32 * 28 * ends
    assert adapters == 80_740_352
    assert found.gradients == 4 * adapters / 8
    assert found.optimizer == 8 * adapters / 8
    assert found.parameters == 4 * (7_615_616_512 + adapters) / 8


def test_nothing_stays_with_an_offload_policy() -> None:
    found = states(DENSE, fsdp(stay_offloaded=True))
    assert (found.parameters, found.gradients, found.optimizer) == (0, 0, 0)
    assert found.gathered > 0


def test_fsdp_that_keeps_layers_gathered() -> None:
    assert states(DENSE, fsdp(reshard=False)).gathered == 2 * DENSE.total


def test_megatron_by_hand() -> None:
    found = states(MOE, megatron())
    experts = 48 * 128 * 3 * 2048 * 768
    whole = 48 * (2 * 128 + 2 * 2048 + 128 * 2048) + 2048
    dense = (30_532_122_624 - experts - whole) / 4 + whole
    expert = experts / 8
    assert found.parameters == pytest.approx(2 * (dense + expert))
    assert found.gradients == pytest.approx(4 * (dense + expert))
    # 16 GPUs: 4 copies of the dense part, 2 of the experts.
    assert found.optimizer == pytest.approx(12 * (dense / 4 + expert / 2))


def test_a_pipeline_has_one_embedding_at_each_end() -> None:
    flat = states(DENSE, megatron(tensor=1, expert=1))
    split = states(DENSE, megatron(tensor=1, expert=1, pipeline=2))
    embedding = 152_064 * 3584
    assert split.parameters == pytest.approx(2 * ((DENSE.total - 2 * embedding) / 2 + embedding))
    assert flat.parameters == 2 * DENSE.total


def test_without_a_distributed_optimizer_each_copy_has_all_of_it() -> None:
    whole = states(DENSE, megatron(tensor=1, expert=1, distributed_optimizer=False))
    assert whole.optimizer == 12 * DENSE.total


def test_a_precision_aware_optimizer() -> None:
    # Gradients and both moments in bfloat16, the copy of the weights in float32.
    found = states(DENSE, megatron(tensor=1, expert=1, master=(2, 8)))
    assert found.gradients == 2 * DENSE.total
    assert found.optimizer == pytest.approx(8 * DENSE.total / 16)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_all_gpus_together_hold_each_parameter_of_the_optimizer_once(tensor: int, expert: int, pipeline: int) -> None:
    # With one stage and nothing that is left whole, the shares of the optimizer add up to 12 bytes a parameter.
    found = states(MOE, megatron(tensor=tensor, expert=expert, pipeline=pipeline))
    together = 16 * found.optimizer / 12
    spare = 16 * (MOE.replicated + MOE.embedding)
    assert MOE.total - 1 <= together <= MOE.total + spare
    if pipeline == 1 and tensor == 1:
        assert together == pytest.approx(MOE.total)

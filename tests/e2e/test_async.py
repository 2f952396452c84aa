"""ESPO in verl's asynchronous trainer with trainer and rollout on the same machine.

The third trainer, separate_async, moves weights with NCCL, NIXL or Mooncake only, which need accelerators or RDMA:
it is not run here. That it inherits what the bridge wraps is shown in tests/bridge/test_controller.py.
"""

from __future__ import annotations

import pytest

# By hand: verl's other trainer loops run the same wrapped methods, and a run costs more than a minute.
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_espo_trains_asynchronously(colocate_async) -> None:
    assert colocate_async.returncode == 0, colocate_async.tail()
    assert [line["loss"] for line in colocate_async.executions] == ["espo"]
    assert len(colocate_async.steps) == 2
    for step in colocate_async.steps:
        assert step["actor/espo/group1/entropy"] > step["actor/espo/group0/entropy"] > 0
        assert step["training/rollout_log_probs_diff_max"] >= 0


def test_the_loss_gets_the_entropies_that_the_actor_computed(colocate_async) -> None:
    records = colocate_async.records()
    assert records
    for record in records:
        for row, entropy in enumerate(record["entropy"]):
            seen = record["context"]["old_entropy"][row]
            assert seen[: len(entropy)].tolist() == entropy.tolist()
            assert not seen[len(entropy) :].any()

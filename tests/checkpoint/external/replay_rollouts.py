"""Loaded by verl in every process of a run (VERL_USE_EXTERNAL_MODULES): keeps the rollouts, or puts kept ones back.

vLLM's random state and that of the agents are not saved, so a resumed run samples other responses from the same
prompts. Here every run rolls out; where a step's rollouts were kept by an earlier run, they take the place of its own
right before training. The prompts that the run itself had drawn are kept as well, to be compared.
"""

from __future__ import annotations

import os
from pathlib import Path

import wrapt

KEPT = Path(os.environ["VERL_EXT_KEPT_ROLLOUTS"])
PROMPTS = Path(os.environ["VERL_EXT_PROMPTS"])


class Samples:
    """State of a plugin: how often this run and those that it continues have sampled."""

    def __init__(self) -> None:
        self.number = 0

    def state_dict(self) -> dict[str, int]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.number = state["number"]


def replay(module) -> None:
    import torch
    from transfer_queue import KVBatchMeta

    from verl_ext.run import state as run_state

    tq, samples = module.tq, Samples()
    run_state.register("test_samples", samples)

    def wrapped(original):
        def sample(self, global_steps, partition_id, batch_size):
            batch, metrics = original(self, global_steps, partition_id, batch_size)
            if partition_id != "train":
                return batch, metrics
            samples.number += 1
            data = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id)
            drawn = sorted(tuple(row.tolist()) for row in data["prompts"].unbind())
            torch.save(drawn, PROMPTS / f"prompts-{global_steps}.pt")
            file = KEPT / f"rollouts-{global_steps}.pt"
            if not file.exists():
                torch.save({"keys": list(batch.keys), "tags": batch.tags, "data": data}, file)
                return batch, metrics
            kept = torch.load(file, weights_only=False)
            tq.kv_clear(keys=batch.keys, partition_id=partition_id)
            tq.kv_batch_put(keys=kept["keys"], fields=kept["data"], tags=kept["tags"], partition_id=partition_id)
            return KVBatchMeta(partition_id=partition_id, keys=kept["keys"], tags=kept["tags"]), metrics

        return sample

    for cls in (module.ReplayBuffer, module.ReplayBufferAsync):
        cls.sample = wrapped(cls.sample)


wrapt.register_post_import_hook(replay, "verl.trainer.ppo.v1.replay_buffer")

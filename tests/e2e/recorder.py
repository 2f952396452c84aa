"""Loaded by verl in every process of an end-to-end run (VERL_USE_EXTERNAL_MODULES): records, and injects faults.

Records what the policy loss is given in each call; the wrapper sits inside ours, so the token context it sees is the
one the loss sees.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import wrapt

FOLDER = Path(os.environ["VERL_EXT_RECORD"])
FIELDS = (
    "prompts",
    "responses",
    "response_mask",
    "old_log_probs",
    "rollout_log_probs",
    "advantages",
    "entropy",
    "rollout_entropies",
    "rm_scores",
    "ref_log_prob",
)
CONTEXT = ("old_entropy", "entropy", "segment_ids", "group_ids", "vocab_size")


def record_loss(module) -> None:
    original = module.ppo_loss
    count = itertools.count()

    def ppo_loss(config, model_output, data, dp_group=None, **kwargs):
        import torch
        from verl.utils import tensordict_utils as tu

        from verl_ext.context import current_context

        context = current_context()
        record = {name: [row.clone() for row in data[name].unbind()] for name in FIELDS if name in data.keys()}
        record["context"] = {name: getattr(context, name) for name in CONTEXT}
        record["uid"] = tu.get(data, "uid")
        record["global_batch_size"] = tu.get(data, "global_batch_size")
        file = FOLDER / f"call-{next(count):04d}.pt"
        torch.save(record, file)  # before the call: it may be the last one
        loss, metrics = original(config, model_output, data, dp_group, **kwargs)
        record["metrics"] = {name: getattr(value, "values", [value])[0] for name, value in metrics.items()}
        torch.save(record, file)
        return loss, metrics

    module.ppo_loss = ppo_loss


def die_in_sync(module) -> None:
    """In vLLM's worker: be killed in the middle of the weight sync whose number the environment gives."""
    cls, number = module.vLLMColocateWorkerExtension, int(os.environ["VERL_EXT_DIE_IN_SYNC"])
    original = cls.update_weights_from_ipc
    count = itertools.count(1)

    def update_weights_from_ipc(self, *args, **kwargs):
        if next(count) == number:
            from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer

            def receive(receiver, on_bucket_received):
                receiver._init_socket()
                receiver._init_buffer()
                (FOLDER / "death").write_text(f"{os.getpid()} {time.time()}")
                os.kill(os.getpid(), signal.SIGKILL)

            bucketed_weight_transfer.BucketedWeightReceiver.receive_weights = receive
        return original(self, *args, **kwargs)

    cls.update_weights_from_ipc = update_weights_from_ipc


def withhold_entropy(module) -> None:
    """As if no forward pass had computed the old policy's entropies."""
    module.OLD_ENTROPY["actor"] = "withheld"


wrapt.register_post_import_hook(record_loss, "verl.workers.engine_workers")
if "VERL_EXT_WITHHOLD_ENTROPY" in os.environ:
    wrapt.register_post_import_hook(withhold_entropy, "verl_ext.bridge.policy_loss")
if "VERL_EXT_DIE_IN_SYNC" in os.environ:
    wrapt.register_post_import_hook(die_in_sync, "verl.workers.rollout.vllm_rollout.utils")

"""Micro-batches as verl's engine hands them to `ppo_loss`: jagged fields, log-probs of every token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig

from verl_ext.config import ESPOLossConfig

PROMPT = 2


def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def micro_batch(lengths: list[int], seed: int = 0, **fields: list[torch.Tensor]) -> tuple[TensorDict, dict[str, Any]]:
    """Rows with responses of these lengths, and the model's output for them.

    Returns:
        `data`, with `fields` as further jagged fields, and `model_output` with log-probs of every token.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    ones = [torch.ones(n, dtype=torch.long) for n in lengths]
    columns = {
        "prompts": [torch.zeros(PROMPT, dtype=torch.long) for _ in lengths],
        "responses": [10 * one for one in ones],
        "response_mask": ones,
        "old_log_probs": [-1 - random(n) for n in lengths],
        "entropy": [5 * random(n) for n in lengths],
        "advantages": [random(1).expand(n).clone() - 0.5 for n in lengths],
        **fields,
    }
    data = TensorDict({name: jagged(rows) for name, rows in columns.items()}, batch_size=len(lengths))
    total = sum(lengths)
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=total, global_batch_size=len(lengths))
    log_probs = jagged([(-1 - random(PROMPT + n)) for n in lengths]).detach().requires_grad_()
    return data, {"log_probs": log_probs}


def actor(loss_mode: str = "espo", vocab_size: int = 258, **settings: Any) -> FSDPActorConfig:
    """verl's actor configuration as `ActorRolloutRefWorker.init_model` leaves it."""
    from verl.workers.config import PolicyLossConfig

    policy_loss = ESPOLossConfig() if loss_mode == "espo" else PolicyLossConfig(loss_mode=loss_mode)
    config = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode="seq-mean-token-mean",
        policy_loss=policy_loss,
        **settings,
    )
    config.model_config = SimpleNamespace(hf_config=SimpleNamespace(vocab_size=vocab_size))
    return config

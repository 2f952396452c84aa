"""Random batches of the size that a training step has, and the steps that are measured on them.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from verl.workers.config import ActorConfig, PolicyLossConfig

from verl_ext import TokenContext, token_context
from verl_ext.advantages.erpo import erpo_advantage
from verl_ext.grouping import entropy_groups
from verl_ext.plugin import POLICY_LOSSES
from verl_ext.segments import SegmentTable

VOCAB_SIZE = 150_000
DELIMITER = "\n\n"
# A vocabulary in which the delimiter is a token, ends one, or is spread over two; the other tokens are words.
VOCABULARY = ["\n", DELIMITER, "." + DELIMITER, *(f" w{i}" for i in range(3, VOCAB_SIZE))]
MODE = "seq-mean-token-mean"

Step = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """One micro-batch as verl's `ppo_loss` has it; a quarter of T to all of it is valid in each row.

    Attributes:
        old_log_prob, log_prob, advantages: [B, T]; the advantage is constant in a row, d has a deviation of 0.05.
        response_mask: [B, T] bool, as verl makes it for the loss.
        responses: [B, T] long, token ids; a segment has some 30 tokens.
        context: token data for every method, entropies between 0 and 3 nats, ids of groups and segments included.
    """

    old_log_prob: Tensor
    log_prob: Tensor
    advantages: Tensor
    response_mask: Tensor
    responses: Tensor
    context: TokenContext


def make_workload(rows: int, tokens: int, device: str, seed: int = 0) -> Workload:
    """The same numbers for the same seed, whatever the device."""
    gen = torch.Generator().manual_seed(seed)
    old = -2 * torch.rand(rows, tokens, generator=gen)
    lengths = torch.randint(tokens // 4, tokens + 1, (rows, 1), generator=gen)
    mask = torch.arange(tokens) < lengths
    entropy = 3 * torch.rand(rows, tokens, generator=gen)
    words = torch.randint(3, VOCAB_SIZE, (rows, tokens), generator=gen)
    ends = torch.randint(0, 3, (rows, tokens), generator=gen)
    responses = torch.where(torch.rand(rows, tokens, generator=gen) < 0.05, ends, words)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(rows, tokens, generator=gen)

    context = TokenContext(
        old_entropy=entropy.to(device),
        entropy=(entropy + noise(0.1)).clamp(min=0).to(device),
        segment_ids=SegmentTable(VOCABULARY, DELIMITER).ids(responses, mask).to(device),
        group_ids=entropy_groups(entropy, mask, [0.8]).to(device),
        ref_log_prob=(old + noise(0.05)).to(device),
        old_log_prob=old.to(device),
        vocab_size=VOCAB_SIZE,
        verified=torch.ones(rows, dtype=torch.bool, device=device),
    )
    return Workload(
        old_log_prob=old.to(device),
        log_prob=(old + noise(0.05)).to(device),
        advantages=torch.randn(rows, 1, generator=gen).expand(rows, tokens).contiguous().to(device),
        response_mask=mask.to(device),
        responses=responses.to(device),
        context=context,
    )


def loss_step(name: str, workload: Workload) -> Step:
    """Forward and backward of a registered loss, ours or verl's, with default hyper-parameters; gives the gradient."""
    own = POLICY_LOSSES.get(name)
    mode = MODE if own is None or MODE in own.aggregations else own.aggregations[0]
    config = _actor_config(PolicyLossConfig() if own is None else own.config_type()(), mode, workload)
    loss = POLICY_LOSS_REGISTRY[name] if own is None else own

    def step() -> Tensor | None:
        log_prob = workload.log_prob.detach().requires_grad_()
        with token_context(workload.context):
            value, _ = loss(
                old_log_prob=workload.old_log_prob,
                log_prob=log_prob,
                advantages=workload.advantages,
                response_mask=workload.response_mask,
                loss_agg_mode=mode,
                config=config,
            )
        value.backward()
        return log_prob.grad

    return step


def _actor_config(policy_loss: Any, mode: str, workload: Workload) -> ActorConfig:
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=policy_loss, loss_agg_mode=mode
    )
    rows = len(workload.response_mask)
    tokens = workload.response_mask.sum().item()
    config.global_batch_info.update(dp_size=1, batch_num_tokens=tokens, global_batch_size=rows)
    return config


def group_step(workload: Workload) -> Step:
    """ESPO's groups, as the controller makes them once for all epochs over a batch."""
    entropy, mask = workload.context.old_entropy, workload.response_mask
    assert entropy is not None
    return lambda: entropy_groups(entropy, mask, [0.8])


def segment_step(workload: Workload) -> Step:
    """SSPO's segments, as the controller makes them; the vocabulary's table is made once, before."""
    table = SegmentTable(VOCABULARY, DELIMITER)
    return lambda: table.ids(workload.responses, workload.response_mask)


def gather_and_cumsum_step(workload: Workload) -> Step:
    """The least that numbering segments takes where no delimiter spans tokens: look each token up, and count."""
    ends = torch.zeros(VOCAB_SIZE, dtype=torch.long, device=workload.responses.device)
    ends[1:3] = 1

    def step() -> Tensor:
        return ends.gather(0, workload.responses.flatten()).view(workload.responses.shape).cumsum(dim=-1)

    return step


def erpo_step(workload: Workload, group: int = 8) -> Step:
    """The `erpo` advantage with `group` rows a prompt, half of them rewarded."""
    context = workload.context
    rewards = torch.zeros_like(workload.old_log_prob)
    rewards[::2, 0] = 1
    index = [row // group for row in range(len(rewards))]
    data = {name: getattr(context, name) for name in ("old_entropy", "old_log_prob", "ref_log_prob")}
    return lambda: erpo_advantage(rewards, workload.response_mask, index, **data)


def moments_step(workload: Workload) -> Step:
    """Mean and standard deviation of the valid tokens, the least that a normalisation of advantages takes."""
    values, mask = workload.context.old_entropy, workload.response_mask
    assert values is not None

    def step() -> tuple[Tensor, Tensor]:
        size = mask.sum()
        mean = values.where(mask, 0.0).sum() / size
        return mean, ((values - mean).square().where(mask, 0.0).sum() / size).sqrt()

    return step


def unmasked_moments_step(workload: Workload) -> Step:
    """`torch.std_mean` of all tokens, padding included."""
    values = workload.context.old_entropy
    assert values is not None
    return lambda: torch.std_mean(values)

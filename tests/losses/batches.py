"""Random ragged batches and verl actor configurations for the tests of losses."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from verl.workers.config import ActorConfig, PolicyLossConfig

VOCAB = 64


@dataclass(frozen=True)
class Batch:
    """One micro-batch, every tensor [B, T]."""

    old_log_prob: Tensor
    log_prob: Tensor
    advantages: Tensor
    response_mask: Tensor
    old_entropy: Tensor

    def rows(self, chosen: slice) -> "Batch":
        return Batch(*(getattr(self, f.name)[chosen].detach().clone() for f in fields(self)))

    def to(self, dtype: torch.dtype) -> "Batch":
        mask = self.response_mask
        moved = Batch(*(getattr(self, f.name).to(dtype) for f in fields(self)))
        return replace(moved, response_mask=mask)

    def with_leaf(self) -> "Batch":
        return replace(self, log_prob=self.log_prob.detach().clone().requires_grad_())

    def loss_args(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.old_log_prob, self.log_prob, self.advantages, self.response_mask


def random_batch(seed: int, rows: int, tokens: int, drift: float, fill: float = 0.7) -> Batch:
    """`drift` scales log_prob - old_log_prob; `fill` is the share of valid tokens. Rows may have holes."""
    gen = torch.Generator().manual_seed(seed)
    old = -2 * torch.rand(rows, tokens, generator=gen) - 0.01
    new = old + drift * torch.randn(rows, tokens, generator=gen)
    advantages = torch.randn(rows, tokens, generator=gen)
    mask = torch.rand(rows, tokens, generator=gen) < fill
    # Few distinct entropies, so that ties are common.
    entropy = torch.randint(0, 6, (rows, tokens), generator=gen) / 2.0
    return Batch(old, new, advantages, mask, entropy)


batches = st.builds(
    random_batch,
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    tokens=st.integers(1, 14),
    drift=st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
    fill=st.sampled_from([0.3, 0.8, 1.0]),
)


def actor_config(policy_loss: PolicyLossConfig | None = None, **keys: Any) -> ActorConfig:
    keys = {"loss_agg_mode": "seq-mean-token-mean", **keys}
    return ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=policy_loss or PolicyLossConfig(),
        **keys,
    )

"""Random ragged batches and verl actor configurations for the tests of losses."""

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from verl.workers.config import ActorConfig, PolicyLossConfig

from verl_ext.losses.common import GlobalBatch

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


# Shapes that a rank may meet at the edge: no rows, no columns, rows without a valid token.
edge_batches = st.builds(
    random_batch,
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 4),
    tokens=st.integers(0, 9),
    drift=st.sampled_from([0.0, 1e-3, 0.3, 1.0]),
    fill=st.sampled_from([0.0, 0.4, 1.0]),
)

Step = tuple[Tensor, Tensor, dict[str, float]]


def step(loss_fn: Any, batch: Batch, /, *args: Any, **options: Any) -> Step:
    """Loss, its gradient with respect to log_prob, metrics; of our losses and, with positional mode and actor, verl's.

    `batch` among the options is the global one.
    """
    batch = batch.with_leaf()
    loss, metrics = loss_fn(*batch.loss_args(), *args, **options)
    loss.backward()
    assert batch.log_prob.grad is not None
    return loss.detach(), batch.log_prob.grad, metrics


def assert_same_step(batch: Batch, ours: Step, theirs: Step, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Value, gradient and every metric of `theirs`; where it divided 0 by 0, value and gradient are 0."""
    if not batch.response_mask.any():
        assert ours[0] == 0
        assert not ours[1].any()
        return
    torch.testing.assert_close(ours[0], theirs[0], rtol=rtol, atol=atol)
    torch.testing.assert_close(ours[1], theirs[1], rtol=rtol, atol=atol)
    for key, value in theirs[2].items():
        assert abs(ours[2][key] - value) <= atol + rtol * abs(value), key


def current_entropy(batch: Batch) -> Tensor:
    """Entropies of the current policy, [B, T]: old_entropy plus -0.5, -0.25, 0, 0.25 or 0.5, exactly.

    A function of each token alone, so that it may be taken before or after rows are chosen.
    """
    return batch.old_entropy + torch.round(2 * torch.sin(1000 * batch.old_log_prob)) / 4


def soiled(batch: Batch, garbage: float) -> Batch:
    """`garbage` in every tensor where the mask is 0."""
    hidden = ~batch.response_mask
    dirty = {f.name: getattr(batch, f.name).masked_fill(hidden, garbage) for f in fields(batch) if "mask" not in f.name}
    return replace(batch, **dirty)


# What a loss that reads entropies refuses for a batch of 2 rows and 5 columns under `token-mean`, and its words.
SHARED_FAULTS = [
    ({"entropy": torch.zeros(2, 6)}, ["entropy", "(2, 6)", "(2, 5)"]),
    ({"rollout_is_weights": torch.zeros(2)}, ["rollout_is_weights", "(2,)"]),
    ({"batch": GlobalBatch(dp_size=2)}, ["batch_num_tokens", "dp_size=2"]),
]


def assert_refused(run: Any, options: dict[str, Any], words: list[str]) -> None:
    """A ValueError that holds every word, for the batch of `SHARED_FAULTS`."""
    with pytest.raises(ValueError, match=r"^(\w+: |\w+ with |these must|batch_num_tokens)") as raised:
        run(random_batch(0, 2, 5, drift=0.1), **options)
    assert [word for word in words if word not in str(raised.value)] == []


CLIP_KEYS = {
    f"actor/{name}" for name in ("pg_clipfrac", "pg_clipfrac_low", "pg_clipfrac_high", "pg_clipfrac_lower", "ppo_kl")
}


def assert_micro_batches_sum(run: Any, batch: Batch, cut: int, **options: Any) -> None:
    """Two ranks with one micro-batch each, the mean over ranks of dp_size-scaled losses, against the whole on one."""
    shared = {"batch_num_tokens": 31, "global_batch_size": 6, "loss_scale_factor": 9}
    whole = run(batch, batch=GlobalBatch(**shared), **options)
    on_two = GlobalBatch(dp_size=2, **shared)
    first, second = (run(batch.rows(part), batch=on_two, **options) for part in (slice(0, cut), slice(cut, None)))
    torch.testing.assert_close((first[0] + second[0]) / 2, whole[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([first[1], second[1]]) / 2, whole[1], rtol=1e-5, atol=1e-6)


def assert_garbage_is_unseen(run: Any, batch: Batch, garbage: float, **options: Any) -> None:
    """Value, gradient and metrics do not change with what stands behind the mask, current entropies and weights too."""
    hidden = ~batch.response_mask
    extra = {
        "rollout_is_weights": 1 + torch.rand(hidden.shape, generator=torch.Generator().manual_seed(1)),
        "entropy": current_entropy(batch),
    }
    clean = run(batch, **extra, **options)
    dirty = {name: values.masked_fill(hidden, garbage) for name, values in extra.items()}
    again = run(soiled(batch, garbage), **dirty, **options)
    assert torch.equal(clean[0], again[0])
    assert torch.equal(clean[1], again[1])
    assert clean[2] == again[2]
    assert not again[1][hidden].any()

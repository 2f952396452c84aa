"""Rows with more segments than the loss makes room for at first give what a loop over the segments gives."""

import pytest
import torch
from torch import Tensor

from verl_ext.losses.sspo import SURE_SEGMENTS, sspo_loss


def by_hand(d: Tensor, advantages: Tensor, entropy: Tensor, segments: Tensor) -> Tensor:
    """Equation 16 with its defaults, a segment at a time; no row has padding."""
    rows = []
    for row in range(len(d)):
        total = torch.zeros((), dtype=d.dtype)
        for segment in segments[row].unique():
            own = segments[row] == segment
            ratio, mean_entropy, advantage = (
                d[row, own].mean().exp(),
                entropy[row, own].mean(),
                advantages[row, own].mean(),
            )
            low, high = max(0.0, min(1 - mean_entropy.item(), 0.8)), min(1 + mean_entropy.item(), 1.75)
            term = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
            total = total + own.sum() * term
        rows.append(total / d.shape[1])
    return -torch.stack(rows).mean()


@pytest.mark.parametrize("segment_length", [1, 3, 50])
def test_any_number_of_segments(segment_length: int) -> None:
    tokens = 4 * SURE_SEGMENTS + 8  # room for a quarter of it is made at first
    gen = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(2, tokens, generator=gen, dtype=torch.float64)
    new = old + 0.5 * torch.randn(2, tokens, generator=gen, dtype=torch.float64)
    advantages = torch.randn(2, tokens, generator=gen, dtype=torch.float64)
    entropy = torch.rand(2, tokens, generator=gen, dtype=torch.float64)
    segments = (torch.arange(tokens) // segment_length).expand(2, tokens)

    log_prob = new.clone().requires_grad_()
    mask = torch.ones(2, tokens, dtype=torch.bool)
    loss, metrics = sspo_loss(old, log_prob, advantages, mask, segment_ids=segments, old_entropy=entropy)
    loss.backward()

    leaf = new.clone().requires_grad_()
    expected = by_hand(leaf - old, advantages, entropy, segments)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(log_prob.grad, leaf.grad)
    assert metrics["actor/sspo/segments"] == segments[0, -1] + 1

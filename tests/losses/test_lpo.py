"""LPO as a preset of `sspo`: the paper's objective, sentence by sentence, and the preset's keys."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import configs
from verl_ext.config import SSPOLossConfig
from verl_ext.losses.sspo import sspo_loss

PRESET = OmegaConf.load(Path(configs.__file__).parent / "algo" / "lpo.yaml").actor_rollout_ref.actor

# Two responses, sentences of 2, 1 and 3 tokens and of 1 and 2.
SENTENCES = [[2, 1, 3], [1, 2]]
RATIOS = [[1.02, 1.02, 1.2, 0.99, 0.98, 1.0], [0.9, 1.01, 0.99, 1.0, 1.0, 1.0]]
ADVANTAGES = [1.5, -0.5]


def lpo_objective(d: Tensor) -> Tensor:
    """Section 4.2.2 of arXiv 2510.22115, as printed, with epsilon = 0.03."""
    total = d.new_zeros(())
    for i, lengths in enumerate(SENTENCES):
        first = 0
        for length in lengths:
            ratio = d[i, first : first + length].mean().exp()
            clipped = ratio.clamp(1 - 0.03, 1 + 0.03)
            total = total + length * torch.minimum(ratio * ADVANTAGES[i], clipped * ADVANTAGES[i])
            first += length
    return total / sum(map(sum, SENTENCES))


def test_the_preset_is_the_papers_objective() -> None:
    old = torch.full((2, 6), -1.0, dtype=torch.float64)
    new = (old + torch.tensor(RATIOS, dtype=torch.float64).log()).requires_grad_()
    lengths = [torch.tensor(row) for row in SENTENCES]
    ids = torch.nn.utils.rnn.pad_sequence([torch.arange(len(n)).repeat_interleave(n) for n in lengths], True, -1)
    policy_loss = SSPOLossConfig(**{k: v for k, v in PRESET.policy_loss.items() if k != "_target_"})
    options = {k: v for k, v in policy_loss.resolved().items() if k != "delimiter"}
    ours, _ = sspo_loss(
        old,
        new,
        torch.tensor(ADVANTAGES, dtype=torch.float64).unsqueeze(-1).expand(2, 6),
        ids >= 0,
        segment_ids=ids,
        clip_ratio_low=PRESET.clip_ratio_low,
        clip_ratio_high=PRESET.clip_ratio_high,
        loss_agg_mode=PRESET.loss_agg_mode,
        **options,
    )
    (ours_grad,) = torch.autograd.grad(ours, new)
    theirs = -lpo_objective(new - old)
    (theirs_grad,) = torch.autograd.grad(theirs, new)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours_grad, theirs_grad)
    # Row 1: 2 * 1.02 * 1.5 + min(1.2, 1.03) * 1.5 + 3 * (0.99 * 0.98)^(1/3) * 1.5 = 3.06 + 1.545 + 4.4548485
    # Row 2: min(-0.45, -0.97/2) + 2 * -0.5 * sqrt(1.01 * 0.99) = -0.485 - 0.9999500
    assert ours.item() == pytest.approx(-(3.06 + 1.545 + 4.4548485 - 0.485 - 0.9999500) / 9, abs=1e-6)

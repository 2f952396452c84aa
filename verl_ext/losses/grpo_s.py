"""GRPO-S: one importance ratio a sequence, the arithmetic mean of its tokens' ratios.

GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy, arXiv 2508.04349 (version 6): objective
equation 10, ratio 11. The advantage that goes with it is verl_ext.advantages.gtpo.grpo_s_advantage.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from verl_ext.hyper import check_call, number, one_of
from verl_ext.losses import common, slots

AGGREGATIONS = ("seq-mean-token-mean",)


def grpo_s_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_ratio_low: Annotated[float, number(least=0)] = 0.2,
    clip_ratio_high: Annotated[float, number(least=0)] = 0.2,
    loss_agg_mode: Annotated[str, one_of(*AGGREGATIONS)] = "seq-mean-token-mean",
    batch: common.GlobalBatch = common.GlobalBatch(),  # noqa: B008 - frozen
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """GRPO-S's clipped objective, negated (arXiv 2508.04349, equations 10 and 11).

        w_i = 1/n_i sum_t exp(d_t)                       with gradient (11)
        J_i = min(w_i A_i, clip(w_i, 1 - low, 1 + high) A_i),  loss = -sum_i J_i / G (10)

    d = log_prob - old_log_prob, clamped to [-20, 20]. Where A differs between the tokens of a row, the minimum is taken
    for each token's A, and J_i is the mean over the row.

    Args:
        old_log_prob, log_prob: [B, T] log pi_old(y_t), log pi_theta(y_t); the latter carries the gradient.
        advantages, response_mask: [B, T]; the mask is bool or 0/1, and where it is 0 nothing else is read.
        clip_ratio_low, clip_ratio_high: low and high.
        loss_agg_mode: only `seq-mean-token-mean` gives each sequence the weight 1/G.
        batch: normalisers of the mini-batch.
        rollout_is_weights: [B, T] or None; multiplies the per-token objective.

    Returns:
        scalar loss on the graph; metrics as floats.

    Raises:
        ValueError: a clip width below 0, another aggregation, or differing shapes.

    Example:
        >>> import torch
        >>> old, new = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.7, 0.4]]))
        >>> loss, _ = grpo_s_loss(old, new, torch.ones(1, 2), torch.ones(1, 2))
        >>> round(loss.item(), 6)  # (1.4 + 0.8) / 2
        -1.1
    """
    check_call(grpo_s_loss, locals())
    with common.full_precision(log_prob.device):
        tokens = common.read_tokens(
            old_log_prob, log_prob, advantages, response_mask, rollout_is_weights=rollout_is_weights
        )
        length = tokens.mask.sum(dim=-1, keepdim=True).clamp(min=1)
        ratio = (common.bounded_exp(tokens.log_ratio) * tokens.mask).sum(dim=-1, keepdim=True) / length  # [B, 1]
        present = tokens.mask.any(dim=-1)
        mean = torch.where(present, ratio.detach().squeeze(-1), 0.0).sum() / present.sum().clamp(min=1)
        objective = slots.objective(tokens, 1 - clip_ratio_low, 1 + clip_ratio_high, ratio=ratio)
        return objective.loss(loss_agg_mode, batch, rollout_is_weights, {"actor/grpo_s/ratio": mean})

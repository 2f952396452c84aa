"""ESPO's advantage: GRPO's z-score over the rows that the verifier could judge.

Entropy Importance Sampling Policy Optimization, arXiv 2512.00499, section 3.5.

Shapes: B rows, T tokens, K prompts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from verl_ext import grouping as grp

FAILED = ("unverified", "incorrect")
EPSILON = 1e-6  # verl's GRPO adds it to the standard deviation
LEAST_SPREAD = 1e-6  # a prompt whose rewards differ by less has nothing to teach


def espo_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    *,
    verified: Tensor,
    failed: str = "unverified",
) -> tuple[Tensor, Tensor]:
    """One advantage a row, normalised among the judged rows of its prompt.

        R_i = sum_t token_level_rewards_it
        A_i = (R_i - mean_G R) / (std_G R + 1e-6)   for i in G, the judged rows of the prompt
        A_i = 0                                     for the others

    std is the unbiased one. A_i is exactly 0 where G has one row, or rewards that spread by no more than
    1e-6. A row whose mask is all zero (padding) is never judged.

    arXiv 2512.00499, section 3.5. The paper writes A per token from a group-aware reward R' that it does
    not define; this is one scalar a row.

    Args:
        token_level_rewards: [B, T], summed over the row without the mask, as verl's GRPO does.
        response_mask: [B, T] bool or 0/1.
        index: B hashable prompt ids; rows with equal ids are compared with each other.
        verified: [B] bool or 0/1, false where the verifier reached no judgement.
        failed: `unverified`, the rows with verified=false get 0 and enter no statistic; `incorrect`, so do
            the rows with R_i <= 0.

    Returns:
        advantages and returns, the same tensor [B, T], 0 outside the mask, without gradient.

    Raises:
        ValueError: an unknown `failed`, or a number of rows that differs between the arguments.

    Example:
        >>> import torch
        >>> rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
        >>> judged = torch.tensor([True, True, False])
        >>> advantages, _ = espo_advantage(rewards, torch.ones(3, 2), ["a", "a", "a"], verified=judged)
        >>> [round(x, 3) for x in advantages[:, 0].tolist()]  # mean 1/2, std sqrt(1/2)
        [0.707, -0.707, 0.0]
    """
    if failed not in FAILED:
        raise ValueError(f"espo advantage: failed={failed!r} is not one of {', '.join(FAILED)}")
    grp.check_same_shape(token_level_rewards=token_level_rewards, response_mask=response_mask)
    prompts = _number_prompts(index)
    judged = torch.as_tensor(verified, device=token_level_rewards.device).bool()
    rows = token_level_rewards.shape[0]
    if len(prompts) != rows or tuple(judged.shape) != (rows,):
        raise ValueError(
            f"espo advantage: {rows} rows of rewards, but {len(prompts)} prompt ids and `verified` of shape "
            f"{tuple(judged.shape)}; both must have one entry a row"
        )
    with torch.no_grad():
        mask = response_mask.bool()
        dtype = torch.promote_types(token_level_rewards.dtype, torch.float32)
        rewards = token_level_rewards.to(dtype).sum(dim=-1)
        judged = judged & mask.any(dim=-1)
        if failed == "incorrect":
            judged = judged & (rewards > 0)
        ids = torch.tensor(prompts, dtype=torch.long, device=rewards.device).masked_fill(~judged, -1)
        row_advantage = normalise_within(rewards, ids, max(prompts, default=-1) + 1)
        advantages = torch.where(mask, row_advantage.unsqueeze(-1), 0.0)
    return advantages, advantages


def normalise_within(rewards: Tensor, prompts: Tensor, num_prompts: int) -> Tensor:
    """z-score of each row among the rows of its prompt, exactly 0 where there is nothing to compare.

    Args:
        rewards: [B].
        prompts: [B] long in 0..K-1; -1 for a row that enters no statistic and gets 0.
        num_prompts: K.

    Returns:
        [B] in the dtype of `rewards`.
    """
    # Statistics in float64: rewards of 1e4 with a spread of 1 would lose their variance in float32.
    values = torch.where(prompts >= 0, rewards, 0.0).double().unsqueeze(0)
    groups = prompts.unsqueeze(0)
    centred = values - grp.per_token(grp.group_mean(values, groups, num_prompts), groups)
    size = grp.group_size(groups, num_prompts, values.dtype)
    variance = grp.group_sum(centred.square(), groups, num_prompts) / (size - 1).clamp(min=1)
    spread = grp.group_range(values, groups, num_prompts)
    flat = spread <= LEAST_SPREAD  # false for a NaN reward, which must stay visible in its prompt
    scale = torch.where(flat, 0.0, 1 / (variance.sqrt() + EPSILON))
    return (centred * grp.per_token(scale, groups)).squeeze(0).to(rewards.dtype)


def _number_prompts(index: Iterable[object]) -> list[int]:
    """Prompt ids, of any hashable type, as numbers in order of first appearance."""
    numbers: dict[object, int] = {}
    items = index.tolist() if isinstance(index, Tensor) else index
    return [numbers.setdefault(item, len(numbers)) for item in items]

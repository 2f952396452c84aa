"""What every advantage estimator here shares: the rows of each prompt, and statistics over them.

Shapes: B rows, T tokens, K prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_ext import grouping as grp

EPSILON = 1e-6  # verl's GRPO adds it to the standard deviation
LEAST_SPREAD = 1e-6  # a prompt whose rewards differ by less has nothing to teach


@dataclass(frozen=True)
class Rows:
    """A batch as an estimator sees it.

    Attributes:
        mask: [B, T] bool.
        rewards: [B], each row's token rewards summed without the mask, as verl's GRPO does; float32 at least.
        prompts: [B] long in 0..count-1, equal for the rows of one prompt; -1 for a row whose mask is all zero.
        count: K, the number of prompts.
    """

    mask: Tensor
    rewards: Tensor
    prompts: Tensor
    count: int

    def outcome_advantages(self) -> Tensor:
        """GRPO's A_i = (R_i - mean) / (std + 1e-6) among the rows of each prompt, [B]; see `normalise_within`."""
        return normalise_within(self.rewards, self.prompts, self.count)

    def keep(self, values: Tensor) -> Tensor:
        """`values` [B, T] in the dtype of the rewards, without gradient, 0 where the mask is 0 whatever they hold."""
        return torch.where(self.mask, values.detach().to(self.rewards.dtype), 0.0)

    def token_prompts(self) -> Tensor:
        """The prompt of each token, [B, T] long, -1 where the mask is 0."""
        return torch.where(self.mask, self.prompts.unsqueeze(-1), -1)


def read_rows(
    method: str,
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    **per_token: Tensor | None,
) -> Rows:
    """Check an estimator's inputs and number its prompts.

    Args:
        method: the estimator, for the error.
        token_level_rewards: [B, T].
        response_mask: [B, T] bool or 0/1.
        index: B hashable prompt ids; rows with equal ids are compared with each other.
        **per_token: further [B, T] tensors, whose shape is checked, and of entropies that none is far below 0.

    Raises:
        ValueError: shapes differ, the number of prompt ids is not B, or an entropy is far below 0.
    """
    grp.check_same_shape(token_level_rewards=token_level_rewards, response_mask=response_mask, **per_token)
    prompts = _number_prompts(index)
    rows = token_level_rewards.shape[0]
    if len(prompts) != rows:
        raise ValueError(f"{method} advantage: {rows} rows of rewards, but {len(prompts)} prompt ids")
    mask = response_mask.bool()
    grp.refuse_impossible(grp.impossible_entropies(mask, **per_token).item())
    dtype = torch.promote_types(token_level_rewards.dtype, torch.float32)
    rewards = token_level_rewards.detach().to(dtype).sum(dim=-1)
    ids = torch.tensor(prompts, dtype=torch.long, device=rewards.device).masked_fill(~mask.any(dim=-1), -1)
    return Rows(mask, rewards, ids, max(prompts, default=-1) + 1)


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

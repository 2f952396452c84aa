"""ESPO's advantage: GRPO's z-score over the rows that the verifier could judge.

Entropy Importance Sampling Policy Optimization, arXiv 2512.00499, section 3.5.

Shapes: B rows, T tokens, K prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor

from verl_ext.advantages.common import normalise_within, read_rows
from verl_ext.hyper import check_call, one_of

FAILED = ("unverified", "incorrect")


def espo_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    *,
    verified: Tensor,
    failed: Annotated[str, one_of(*FAILED)] = "unverified",
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
    check_call(espo_advantage, locals())
    rows = read_rows("espo", token_level_rewards, response_mask, index)
    judged = torch.as_tensor(verified, device=rows.mask.device).bool()
    if judged.shape != rows.rewards.shape:
        raise ValueError(
            f"espo advantage: `verified` has shape {tuple(judged.shape)}; it must have one entry for each of the "
            f"{len(rows.rewards)} rows"
        )
    if failed == "incorrect":
        judged = judged & (rows.rewards > 0)
    row_advantage = normalise_within(rows.rewards, rows.prompts.masked_fill(~judged, -1), rows.count)
    advantages = torch.where(rows.mask, row_advantage.unsqueeze(-1), 0.0)
    return advantages, advantages

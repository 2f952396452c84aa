"""GTPO and GRPO-S: rewards shaped by the old policy's entropy, per token or per sequence.

GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy, arXiv 2508.04349, version 6: token rewards
equations 3 and 5, their advantage 6; sequence rewards 9, their advantage 1 and 46. What the paper leaves open is in
docs/methods/gtpo.md.

Shapes: B rows, T tokens, K sets of rows that are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from verl_ext import grouping as grp
from verl_ext.advantages.common import EPSILON, LEAST_SPREAD, Rows, normalise_within, read_rows
from verl_ext.hyper import check_call, number, one_of

SCOPES = ("prompt", "batch")
NORMALISERS = ("all", "own")


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Faults between hyper-parameters that are each in range."""
    low, high = values.get("entropy_low"), values.get("entropy_high")
    if low is not None and high is not None and low > high:
        return [f"entropy_low={low:g} must be <= entropy_high={high:g}"]
    return []


def gtpo_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    *,
    old_entropy: Tensor,
    alpha1: Annotated[float, number(least=0)] = 1.0,
    alpha2: Annotated[float, number(least=0)] = 0.1,
    entropy_low: Annotated[float, number(least=0)] = 0.2,
    entropy_high: Annotated[float, number(least=0)] = 0.28,
    scope: Annotated[str, one_of(*SCOPES)] = "prompt",
    normalise_over: Annotated[str, one_of(*NORMALISERS)] = "all",
) -> tuple[Tensor, Tensor]:
    """An advantage for each token, from its entropy beside that of other responses' tokens at the same place.

        r_t = alpha1 R_i + alpha2 * H_t / mean H             R_i > 0: successful       (3)
        r_t = -alpha1    - alpha2 * (1/H_t) / mean (1/H)     otherwise: unsuccessful   (5)
        A_t = (r_t - mean r) / (std r + 1e-6)                                          (6)

    H is clipped to [entropy_low, entropy_high]. The means of H and of 1/H are over the tokens of the same index t in
    the successful, or the unsuccessful, rows. The mean and the population std of equation 6 are taken separately for
    the two kinds, over all tokens with the other kind's at 0 (`all`) or over the kind's own tokens (`own`).

    Args:
        token_level_rewards: [B, T], summed over the row without the mask, as verl's GRPO does.
        response_mask: [B, T] bool or 0/1; t counts the tokens where it is set.
        index: B hashable prompt ids.
        old_entropy: [B, T] nats, of the policy that wrote the responses.
        alpha1, alpha2: >= 0.
        entropy_low, entropy_high: 0 <= low <= high, nats.
        scope: compare the rows of each `prompt`, or of the whole `batch`.
        normalise_over: `all` or `own`.

    Returns:
        advantages and returns, the same tensor [B, T], 0 outside the mask, without gradient; exactly 0 in the rows of a
        prompt whose rewards differ by no more than 1e-6.

    Raises:
        ValueError: an option out of its range, entropies far below 0, or a number of rows that differs between the
            arguments.

    Example:
        >>> import torch
        >>> rewards, entropy = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.25, 0.2], [0.2, 0.2]])
        >>> advantages, _ = gtpo_advantage(rewards, torch.ones(2, 2), ["a", "a"], old_entropy=entropy)
        >>> [round(x, 3) for x in advantages[:, 0].tolist()]  # one row of each kind: +-1.1, beside zeros
        [1.0, -1.0]
    """
    check_call(gtpo_advantage, locals(), contradictions)
    with torch.no_grad():
        rows = read_rows("gtpo", token_level_rewards, response_mask, index, old_entropy=old_entropy)
        sets, count = _sets(rows, scope)
        won = rows.rewards > 0
        tokens = torch.where(rows.mask, sets.unsqueeze(-1), -1)
        kinds = torch.where(tokens < 0, -1, 2 * tokens + won.unsqueeze(-1).long())
        width = rows.mask.shape[-1]
        place = (rows.mask.cumsum(dim=-1) - 1).clamp(min=0)
        columns = torch.where(kinds < 0, -1, kinds * width + place)
        signal = _signal(rows.keep(old_entropy).double(), won.unsqueeze(-1), entropy_low, entropy_high)
        share = _relative(signal, columns, 2 * count * width)
        shaped = _shape(rows.rewards.double().unsqueeze(-1), won.unsqueeze(-1), share, alpha1, alpha2)
        if normalise_over == "own":
            advantages = _z_score(shaped, kinds, 2 * count)
        else:
            positive = _z_score(torch.where(won.unsqueeze(-1), shaped, 0.0), tokens, count)
            negative = _z_score(torch.where(won.unsqueeze(-1), 0.0, shaped), tokens, count)
            advantages = torch.where(won.unsqueeze(-1), positive, negative)
        advantages = advantages.to(rows.rewards.dtype)
    return advantages, advantages


def grpo_s_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    *,
    old_entropy: Tensor,
    beta1: Annotated[float, number(least=0)] = 1.0,
    beta2: Annotated[float, number(least=0)] = 0.1,
    entropy_low: Annotated[float, number(least=0)] = 0.2,
    entropy_high: Annotated[float, number(least=0)] = 0.28,
    scope: Annotated[str, one_of(*SCOPES)] = "prompt",
) -> tuple[Tensor, Tensor]:
    """An advantage for each row, from its mean entropy beside that of the prompt's other rows.

        r_i = beta1 R_i + beta2 * H_i / mean H              R_i > 0: successful       (9)
        r_i = -beta1    - beta2 * (1/H_i) / mean (1/H)      otherwise: unsuccessful   (9)
        A_i = (r_i - mean r) / (std r + 1e-6)                                         (1, 46)

    H_i is the mean over the row of the entropy clipped to [entropy_low, entropy_high] (8); the means of H and of 1/H
    are over the successful, or the unsuccessful, rows. A is normalised over the rows of each prompt, std unbiased.

    Args:
        token_level_rewards: [B, T], summed over the row without the mask, as verl's GRPO does.
        response_mask: [B, T] bool or 0/1.
        index: B hashable prompt ids.
        old_entropy: [B, T] nats, of the policy that wrote the responses.
        beta1, beta2: >= 0.
        entropy_low, entropy_high: 0 <= low <= high, nats.
        scope: compare the entropies of each `prompt`, or of the whole `batch`.

    Returns:
        advantages and returns, the same tensor [B, T], 0 outside the mask, without gradient; exactly 0 in the rows of a
        prompt whose rewards differ by no more than 1e-6.

    Raises:
        ValueError: an option out of its range, entropies far below 0, or a number of rows that differs between the
            arguments.

    Example:
        >>> import torch
        >>> rewards, entropy = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.25, 0.2], [0.2, 0.2]])
        >>> advantages, _ = grpo_s_advantage(rewards, torch.ones(2, 2), ["a", "a"], old_entropy=entropy)
        >>> [round(x, 3) for x in advantages[:, 0].tolist()]  # +-1.1 and std 2.2 / sqrt(2)
        [0.707, -0.707]
    """
    check_call(grpo_s_advantage, locals(), contradictions)
    with torch.no_grad():
        rows = read_rows("grpo_s", token_level_rewards, response_mask, index, old_entropy=old_entropy)
        sets, count = _sets(rows, scope)
        won = rows.rewards > 0
        clipped = rows.keep(old_entropy.clamp(entropy_low, entropy_high)).double()
        entropy = clipped.sum(dim=-1) / rows.mask.sum(dim=-1).clamp(min=1)
        signal = _signal(entropy, won, entropy_low, entropy_high)
        kinds = torch.where(sets < 0, -1, 2 * sets + won.long())
        share = _relative(signal, kinds, 2 * count)
        shaped = _shape(rows.rewards.double(), won, share, beta1, beta2)
        compared = torch.where(sets < 0, -1, rows.prompts)
        row_advantage = normalise_within(shaped, compared, rows.count).to(rows.rewards.dtype)
        advantages = torch.where(rows.mask, row_advantage.unsqueeze(-1), 0.0)
    return advantages, advantages


def _sets(rows: Rows, scope: str) -> tuple[Tensor, int]:
    """The set of rows that each row is compared with, [B] long, and their number.

    -1 for a row of padding, and for the rows of a prompt whose rewards do not differ: they enter no statistic.
    """
    prompts = rows.prompts.unsqueeze(0)
    spread = grp.group_range(torch.where(rows.prompts >= 0, rows.rewards, 0.0).unsqueeze(0), prompts, rows.count)
    flat = grp.per_token((spread <= LEAST_SPREAD).long(), prompts).squeeze(0) > 0
    sets = rows.prompts.masked_fill(flat, -1)
    return (sets, rows.count) if scope == "prompt" else (sets.clamp(max=0), 1)


def _signal(entropy: Tensor, won: Tensor, low: float, high: float) -> Tensor:
    """Clipped entropy where the row won, its inverse elsewhere; EPSILON keeps the inverse of 0 finite."""
    level = entropy.clamp(low, high) + EPSILON
    return torch.where(won, level, 1 / level)


def _relative(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """`values` over their mean within each group of equal ids, wherever in the batch; 0 where the id is -1."""
    flat, ids = values.reshape(1, -1), groups.reshape(1, -1)
    mean = grp.per_token(grp.group_mean(torch.where(ids < 0, 0.0, flat), ids, num_groups), ids)
    return torch.where(ids < 0, 0.0, flat / mean).view(values.shape)


def _shape(rewards: Tensor, won: Tensor, share: Tensor, outcome: float, entropy: float) -> Tensor:
    """Equations 3, 5 and 9. A reward that is NaN stays one."""
    base = torch.where(won, rewards, torch.where(rewards <= 0, -1.0, rewards))
    return outcome * base + entropy * torch.where(won, share, -share)


def _z_score(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """z-score with the population std within each group of equal ids, wherever in the batch; 0 where the id is -1."""
    flat, ids = torch.where(groups < 0, 0.0, values).reshape(1, -1), groups.reshape(1, -1)
    centred = flat - grp.per_token(grp.group_mean(flat, ids, num_groups), ids)
    std = grp.group_mean(torch.where(ids < 0, 0.0, centred.square()), ids, num_groups).sqrt()
    scaled = centred / (grp.per_token(std, ids) + EPSILON)
    return torch.where(ids < 0, 0.0, scaled).view(values.shape)

"""The entropy bonus: GRPO's advantage, raised at uncertain tokens by at most a fraction of itself.

Reasoning with Exploration: An Entropy Perspective, arXiv 2506.14758, section 3.2. TEPO's tables (arXiv 2604.12736)
list it as "Entropy-based Term". What was decided beyond the paper is in docs/methods/entropy_bonus.md.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor

from verl_ext.advantages.common import read_rows
from verl_ext.hyper import check_call, number


def entropy_bonus_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    *,
    old_entropy: Tensor,
    scale: Annotated[float, number(least=0)] = 0.4,
    kappa: Annotated[float, number(above=0)] = 2.0,
) -> tuple[Tensor, Tensor]:
    """GRPO's advantage plus a bounded multiple of the token's entropy.

        A_it = A_i + min(scale H_it, |A_i| / kappa)

    A_i = (R_i - mean) / (std + 1e-6) within the prompt, with the unbiased std; H is the entropy under the old policy
    in nats. With kappa > 1 every token keeps the sign of its row. Where A_i is 0, so is the bonus.

    arXiv 2506.14758, section 3.2, equations 5 and 6, whose alpha is `scale`.

    Args:
        token_level_rewards: [B, T], summed over the row without the mask, as verl's GRPO does.
        response_mask: [B, T] bool or 0/1; a row of zeros enters no statistic.
        index: B hashable prompt ids; rows with equal ids are compared with each other.
        old_entropy: [B, T] nats.
        scale: weight of the entropy, at least 0; 0 leaves A_i.
        kappa: the bonus is at most |A_i| / kappa; above 0.

    Returns:
        advantages and returns, the same tensor [B, T], 0 outside the mask, without gradient.

    Raises:
        ValueError: shapes differ, the number of prompt ids is not B, an option is out of its range, or entropies are
            far below 0.

    Example:
        >>> import torch
        >>> rewards, entropy = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.5], [0.5, 3.0]])
        >>> advantages, _ = entropy_bonus_advantage(rewards, torch.ones(2, 2), ["a", "a"], old_entropy=entropy)
        >>> [[round(x, 3) for x in row] for row in advantages.tolist()]  # A = +-0.707, the bonus at most 0.354
        [[0.707, 0.907], [-0.507, -0.354]]
    """
    check_call(entropy_bonus_advantage, locals())
    rows = read_rows("entropy_bonus", token_level_rewards, response_mask, index, old_entropy=old_entropy)
    outcome = rows.outcome_advantages().unsqueeze(-1)
    bonus = torch.minimum(scale * rows.keep(old_entropy), outcome.abs() / kappa)
    # An entropy rounded below 0 must not move a row that has nothing to learn; NaN * 0 still shows.
    advantages = torch.where(rows.mask, outcome + bonus * (outcome != 0), 0.0)
    return advantages, advantages

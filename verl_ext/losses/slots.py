"""The objective that most losses here share, by what they choose: ratio, bounds, what happens beyond them, weight.

Shapes: B rows, T tokens, U units of a row, each a token or several that share a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from verl_ext.losses import common, trace


class Units(Protocol):
    """Tokens that are taken together: each has the sum of its tokens' advantages and the mean of their corrections."""

    def sum(self, values: Tensor) -> Tensor:
        """[B, T] -> [B, U]."""

    def mean(self, values: Tensor) -> Tensor:
        """[B, T] -> [B, U]."""

    def spread(self, **values: Tensor) -> dict[str, Tensor]:
        """[B, U] or [] each -> [B, T], for those who look at single tokens."""

    def tokens(self, flags: Tensor) -> Tensor:
        """[B, U] bool -> [], tokens of the units that are set."""


@dataclass(frozen=True)
class Objective:
    """What is to be made greater, and where bounds ended it.

    Attributes:
        tokens: the loss's inputs.
        values: [B, U] J, 0 outside the mask.
        low, high, dual: [B, U] bool or [], what was cut at the lower bound, the upper one and by the dual clip.
        units: what shares a term; None: each token has its own.
    """

    tokens: common.Tokens
    values: Tensor
    low: Tensor
    high: Tensor
    dual: Tensor | None = None
    units: Units | None = None

    def corrected(self, rollout_is_weights: Tensor | None) -> Tensor:
        """`values` times verl's rollout correction, [B, T], where there is one; a unit has the mean of its tokens'."""
        if rollout_is_weights is None:
            return self.values
        correction = self.tokens.keep(rollout_is_weights)
        return self.values * (correction if self.units is None else self.units.mean(correction))

    def clip_metrics(self) -> dict[str, Tensor]:
        """verl's own metrics."""
        sides = {"low": self.low, "high": self.high} | ({} if self.dual is None else {"dual": self.dual})
        if self.units is not None:
            sides = {side: self.units.tokens(cut) for side, cut in sides.items()}
        return common.clip_metrics(self.tokens, **sides)

    def loss(
        self,
        loss_agg_mode: str,
        batch: common.GlobalBatch,
        rollout_is_weights: Tensor | None,
        metrics: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, float]]:
        """-J, corrected and aggregated as `common.aggregate` does it; verl's metrics and `metrics` as floats."""
        loss = common.aggregate(self.corrected(rollout_is_weights), self.tokens.mask, loss_agg_mode, batch)
        return loss, common.to_floats({**self.clip_metrics(), **metrics})


def weighted(tokens: common.Tokens, weight: Tensor) -> common.Tokens:
    """The same tokens, each counting `weight` times: [B, T], w >= 0, without gradient.

    The advantage carries it through the minimum and the dual clip, so a token of weight 0 is never cut.
    """
    return replace(tokens, advantages=weight * tokens.advantages)


def objective(
    tokens: common.Tokens,
    lower: Tensor | float,
    upper: Tensor | float,
    *,
    ratio: Tensor | None = None,
    units: Units | None = None,
    dual_clip: float | None = None,
) -> Objective:
    """The clipped objective of each token, or of each unit of tokens.

        J = min(r A, clip(r, lower, upper) A), and at least c A where A < 0

    Dual clip c: arXiv 1912.09729, equation 5. `torch.minimum` would halve the gradient between the sides of a tie; here
    a tie keeps the unclipped side whole, so that a width of zero still learns on-policy. NaN in any argument reaches
    the result. The other choices of a loss: `weighted`, and a penalty, which is taken from `Objective.values`.

    Args:
        tokens: the loss's inputs.
        lower, upper: numbers, or anything that broadcasts to [B, U].
        ratio: r, [B, U] or [B, 1], with the gradient that the method gives it; None: exp(d) of each token.
        units: what shares a term; None: each token has its own, U = T. A is then the sum over the unit, so that it
            counts with its size.
        dual_clip: c > 1, or None for no dual clip.

    Returns:
        the objective; `Objective.loss` makes the loss of it.

    Raises:
        RuntimeError: shapes that do not broadcast.

    Example:
        >>> import torch
        >>> old, new = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.7, 0.4]]))
        >>> tokens = common.read_tokens(old, new, torch.ones(1, 2), torch.ones(1, 2))
        >>> [round(value, 6) for value in objective(tokens, 0.8, 1.2).values[0].tolist()]  # min(1.4, 1.2), 0.8
        [1.2, 0.8]
        >>> half = weighted(tokens, torch.tensor([[0.5, 0.0]]))
        >>> loss, _ = objective(half, 0.8, 1.2).loss("token-mean", common.GlobalBatch(), None, {})
        >>> round(loss.item(), 6)  # -(0.5 * 1.2 + 0) / 2
        -0.3
    """
    advantages = tokens.advantages if units is None else units.sum(tokens.advantages)
    ratio = common.bounded_exp(tokens.log_ratio) if ratio is None else ratio
    lower, upper = (torch.as_tensor(bound, dtype=ratio.dtype, device=ratio.device) for bound in (lower, upper))
    with torch.no_grad():
        bounded = torch.minimum(ratio.expand_as(advantages), upper)
        torch.maximum(bounded, lower, out=bounded)
        bounded *= advantages
    _note(units, ratio=ratio, lower=lower, upper=upper)
    # Losses need the most memory here. Without these names a caller's temporaries are gone.
    del lower, upper
    unclipped = ratio * advantages
    del ratio
    clipped = bounded < unclipped
    values = torch.where(unclipped <= bounded, unclipped, bounded)
    del unclipped, bounded
    negative, dual = advantages < 0, None
    if dual_clip is not None:
        floor = dual_clip * advantages
        dual = negative & (values < floor)
        values = torch.where(dual, floor, values)
    _note(units, clipped=clipped if dual is None else clipped | dual)
    # No term is clipped where the advantage is 0.
    return Objective(tokens, values, clipped & negative, clipped & ~negative, dual, units)


def _note(units: Units | None, **values: Tensor) -> None:
    if trace.listening():
        trace.note(**(values if units is None else units.spread(**values)))

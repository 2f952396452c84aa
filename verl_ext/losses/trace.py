"""What a loss did to each token, for people who look at single tokens: ratio, bounds, clipped or not.

A loss computes these anyway and keeps only their sums. Inside `traced()` it hands them out; outside, `note` does
nothing, so that training pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# What a loss hands out, each [B, T] or broadcastable to it; `clipped` is bool.
FIELDS = ("ratio", "lower", "upper", "clipped")

_sink: ContextVar[dict[str, Tensor] | None] = ContextVar("verl_ext_loss_trace", default=None)


@contextmanager
def traced() -> Iterator[dict[str, Tensor]]:
    """Collect what the losses called in the body hand out; a later value of a name replaces an earlier one.

    Example:
        >>> import torch
        >>> from verl_ext.losses.dcpo import dcpo_loss
        >>> old, new = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.6, 0.5]]))
        >>> with traced() as seen:
        ...     _ = dcpo_loss(old, new, torch.ones(1, 2), torch.ones(1, 2))
        >>> [round(x, 2) for x in seen["ratio"][0].tolist()]
        [1.2, 1.0]
    """
    found: dict[str, Tensor] = {}
    token = _sink.set(found)
    try:
        yield found
    finally:
        _sink.reset(token)


def listening() -> bool:
    """Whether somebody listens; to be asked where a value would have to be made first."""
    return _sink.get() is not None


def note(**values: Tensor) -> None:
    """Hand out per-token values under names of `FIELDS`; does nothing where nobody listens."""
    sink = _sink.get()
    if sink is not None:
        sink.update({name: value.detach() for name, value in values.items()})

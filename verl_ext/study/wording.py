"""Numbers in words."""

from __future__ import annotations

from collections.abc import Callable

from verl_ext.study.intervals import BySeed, Estimate, estimate

Form = Callable[[float], str]


def form(pattern: str, scale: float = 1.0) -> Form:
    """How a number is written.

    Example:
        >>> form("{:+.1f} points", 100)(0.0234)
        '+2.3 points'
    """
    return lambda value: pattern.format(scale * value)


def worded(found: Estimate, write: Form, unit: str = "") -> str:
    """Mean and interval, the mean alone where there is no interval.

    Example:
        >>> worded(Estimate(0.5, 0.25, 0.75, 3), form("{:+.2f}"), " nats")
        '+0.50 [+0.25, +0.75] nats'
    """
    if found.low is None or found.high is None:
        return f"{write(found.mean)}{unit}"
    return f"{write(found.mean)} [{write(found.low)}, {write(found.high)}]{unit}"


def over_seeds(values: BySeed, write: Form, unit: str = "") -> str:
    """Mean and interval of one number a seed."""
    return worded(estimate(values.values()), write, unit) if values else "has no value"

"""Statistics over seeds: means with intervals, pairs, crossings of a level, rank correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

BySeed = dict[int, float]
"""One number a seed."""


@dataclass(frozen=True)
class Estimate:
    """The mean of n numbers, one a seed, and the 95% interval of Student's t; no interval with fewer than two.

    Example:
        >>> estimate([0.5, 0.7]).n
        2
        >>> estimate([0.5]).low is None
        True
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def student_quantile(degrees: int, confidence: float = 0.95) -> float:
    """t with P(|T| <= t) = confidence for Student's t with a whole number of degrees of freedom.

    The probability is a finite sum in theta = atan(t / sqrt(degrees)) (Abramowitz and Stegun, 26.7.3 and 26.7.4), and
    the quantile is found by bisection.

    Example:
        >>> round(student_quantile(2), 3)
        4.303
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {degrees}")
    low, high = 0.0, 1.0
    while _inside(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, degrees) < confidence else (low, middle)
    return high


def _inside(t: float, degrees: int) -> float:
    theta = math.atan(t / math.sqrt(degrees))
    term = math.cos(theta) if degrees % 2 else 1.0
    total = 0.0
    for k in range(degrees // 2):
        total += term
        numerator = 2 * k + (2 if degrees % 2 else 1)
        term *= math.cos(theta) ** 2 * numerator / (numerator + 1)
    scaled = math.sin(theta) * total
    return 2 / math.pi * (theta + scaled) if degrees % 2 else scaled


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and interval: ``mean ± t(n - 1) * s / sqrt(n)``, s the unbiased standard deviation.

    Raises:
        ValueError: there are no numbers.
    """
    found = list(values)
    if not found:
        raise ValueError("the mean of no runs was asked for")
    centre = fmean(found)
    if len(found) < 2:
        return Estimate(centre, None, None, len(found))
    half = student_quantile(len(found) - 1) * stdev(found) / math.sqrt(len(found))
    return Estimate(centre, centre - half, centre + half, len(found))


def paired(a: BySeed, b: BySeed, how: Callable[[float, float], float] = lambda x, y: x - y) -> BySeed:
    """``how(a, b)``, the difference by default, for each seed that both have.

    Example:
        >>> paired({1: 0.75, 2: 0.5}, {2: 0.25, 3: 0.5})
        {2: 0.25}
    """
    return {seed: how(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())}


def shares(a: BySeed, b: BySeed) -> BySeed:
    """``a / b`` for each seed that both have and where b is not 0."""
    return paired(a, {seed: value for seed, value in b.items() if value}, lambda x, y: x / y)


def intraclass(groups: Sequence[Sequence[float]]) -> float | None:
    """The intra-class correlation, ICC(1): how alike the numbers of one group are, 0 if no more than those of two.

        (B - W) / (B + (k - 1) W),  B and W the mean squares between and within the groups, of k numbers each

    None with fewer than two groups, or two numbers a group, or numbers that do not vary.

    Example:
        >>> intraclass([[1.0, 1.0], [3.0, 3.0]]), intraclass([[1.0, 3.0], [1.0, 3.0]])
        (1.0, -1.0)
    """
    n, k = len(groups), min(map(len, groups), default=0)
    if n < 2 or k < 2:
        return None
    means = [fmean(group) for group in groups]
    between = k * sum((mean - fmean(means)) ** 2 for mean in means) / (n - 1)
    within = sum((x - mean) ** 2 for group, mean in zip(groups, means, strict=True) for x in group) / (n * (k - 1))
    spread = between + (k - 1) * within
    return (between - within) / spread if spread else None


def first_crossing(steps: Sequence[int], values: Sequence[float], level: float) -> float | None:
    """The first step at which the curve, linear between its points, is at `level` or above; None if it never is.

    Example:
        >>> first_crossing([0, 6, 12], [0.25, 0.5, 1.0], 0.75)
        9.0
    """
    before: tuple[int, float] | None = None
    for step, value in zip(steps, values, strict=True):
        if value >= level:
            if before is None:
                return float(step)
            at, under = before
            return at + (step - at) * (level - under) / (value - under)
        before = (step, value)
    return None


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's correlation, ties at their mean rank; None where one of the two does not vary.

    Example:
        >>> rank_correlation([1.0, 2.0, 4.0], [9.0, 8.0, 1.0])
        -1.0
    """
    x, y = _ranks(a), _ranks(b)
    middle = (len(x) + 1) / 2
    spread = math.sqrt(sum((p - middle) ** 2 for p in x) * sum((q - middle) ** 2 for q in y))
    return sum((p - middle) * (q - middle) for p, q in zip(x, y, strict=True)) / spread if spread else None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    places: dict[float, list[int]] = {}
    for rank, value in enumerate(ordered, start=1):
        places.setdefault(value, []).append(rank)
    return [fmean(places[value]) for value in values]

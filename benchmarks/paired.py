"""Ratios of two running times that survive a busy machine: both are taken in turn, in one process.

A round is A B B A, so that a drift of the machine's speed within it cancels; its ratio is (A + A) / (B + B). Of all
rounds the median counts. Its 95% interval is the percentile bootstrap's: medians of rounds drawn with replacement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WARM_UPS = 2
LEAST_ROUNDS = 8
RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """What was measured against what.

    Attributes:
        what, against: names for the table.
        ratios: one a round.
        limit: greatest ratio allowed; None for a number that is only reported.
    """

    what: str
    against: str
    ratios: Sequence[float]
    limit: float | None = None

    @property
    def ratio(self) -> float:
        return float(np.median(self.ratios))

    @property
    def interval(self) -> tuple[float, float]:
        return bootstrap_interval(self.ratios)

    @property
    def verdict(self) -> str:
        return judge(self.ratio, self.interval[0], self.limit)


def judge(value: float, least: float, limit: float | None) -> str:
    """`missed` only if even the lower end of the interval, `least`, lies beyond the limit."""
    if limit is None:
        return "-"
    if least > limit:
        return "missed"
    return "kept" if value <= limit else "kept (within the noise)"


def bootstrap_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Ends of the percentile bootstrap interval of the median.

    Example:
        >>> bootstrap_interval([2.0, 2.0, 2.0])
        (2.0, 2.0)
    """
    sample = np.asarray(values)
    draws = np.random.default_rng(seed).choice(sample, size=(RESAMPLES, len(sample)))
    low, high = np.quantile(np.median(draws, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_ratios(
    first: Callable[[], object], second: Callable[[], object], rounds: int, wait: Callable[[], None] = lambda: None
) -> list[float]:
    """Time of `first` over time of `second`, one ratio a round, after two rounds that are thrown away.

    Args:
        first, second: what is measured.
        rounds: at least 8.
        wait: returns once the device has done all it was given.

    Raises:
        ValueError: fewer than 8 rounds.
    """
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"{rounds} rounds are too few for an interval: at least {LEAST_ROUNDS} are needed")

    def seconds(step: Callable[[], object]) -> float:
        wait()
        start = time.perf_counter()
        step()
        wait()
        return time.perf_counter() - start

    ratios = []
    for _ in range(WARM_UPS + rounds):
        a1, b1, b2, a2 = (seconds(step) for step in (first, second, second, first))
        ratios.append((a1 + a2) / (b1 + b2))
    return ratios[WARM_UPS:]

"""The least parameter at which no more than a given share of the tokens is clipped.

Each token has a critical value: it is clipped as long as the parameter is below it. The clipped share is then a
staircase that falls as the parameter grows, and the answer is found in the sorted critical values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# A proposal above the greatest critical value, and any other, stays this close to the least one that will do.
MARGIN = 1.05


@dataclass(frozen=True)
class Solution:
    """An answer.

    Attributes:
        value: the parameter; None where no value meets the target.
        fraction: clipped share at that value; where there is none, the share nearest to the target.
        reason: what a person should know: ties, or why there is no answer; empty if nothing.
    """

    value: float | None
    fraction: float
    reason: str = ""


def clipped_share(critical: np.ndarray, value: float) -> float:
    """Share of the tokens that are clipped at this parameter.

    Example:
        >>> clipped_share(np.array([0.1, 0.2, 0.3, -np.inf]), 0.2)
        0.25
    """
    return float(np.mean(critical > value))


def solve(critical: np.ndarray, target: float) -> Solution:
    """The least parameter, 0 or greater, that clips no more than the target.

    The value stands strictly between two critical values, so that no rounding decides, and has as few digits as fit
    there.

    Args:
        critical: [N], one a token; -inf is never clipped, +inf always.
        target: share of the tokens, 0 to 1.

    Example:
        >>> solve(np.array([0.1, 0.2, 0.204, 0.4]), 0.5).value  # 0.204 and 0.4 remain clipped
        0.202
    """
    falling = np.sort(critical)[::-1]
    allowed = math.floor(target * len(falling) + 1e-9)
    most, least = clipped_share(critical, 0), float(np.mean(np.isposinf(critical)))
    if allowed >= len(falling) or falling[allowed] <= 0:
        if most >= target:  # the target is met at 0 exactly
            return Solution(0.0, most)
        return Solution(None, most, f"no value clips as much as {target:.4g}: even 0 clips {most:.4g}")
    edge = float(falling[allowed])
    if math.isinf(edge):
        return Solution(None, least, f"no value clips as little as {target:.4g}: {least:.4g} is clipped at any value")
    greater = falling[falling > edge]
    value = shortest_between(edge, min(float(greater[-1]) if len(greater) else math.inf, edge * MARGIN))
    fraction = clipped_share(critical, value)
    tied = int(np.sum(falling == edge))
    before = clipped_share(critical, np.nextafter(edge, 0))
    reason = ""
    if tied > 1 and fraction < allowed / len(falling):
        reason = (
            f"{tied} tokens share a group and so a critical value, {edge:.4g}: the clipped share jumps there from "
            f"{before:.4g} to {fraction:.4g}, past the target {target:.4g}"
        )
    return Solution(value, fraction, reason)


def shortest_between(low: float, high: float) -> float:
    """A number strictly between two others with as few significant digits as can be.

    Example:
        >>> shortest_between(0.1234, 0.1287), shortest_between(0.1234, 0.1236)
        (0.126, 0.1235)
    """
    middle = (low + high) / 2
    for digits in range(1, 17):
        value = float(f"{middle:.{digits}g}")
        if low < value < high:
            return value
    return middle

"""avg@k, pass@k and boxed rate of a benchmark, and their bootstrap intervals over problems.

Every metric is the mean over P problems of one number a problem. What a problem's samples were worth is the
uncertainty inside that number; the intervals here are over the choice of problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Method = Literal["bca", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
PASS_AT = (1, 2, 4, 8, 16, 32)
_BATCH = 1000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Metric:
    """A share in [0, 1] with its interval.

    Attributes:
        value: the mean over the problems.
        low, high: ends of the bootstrap interval.
        n: number of problems P.
    """

    value: float
    low: float
    high: float
    n: int


def avg_at_k(successes: ArrayLike, k: int | None = None) -> NDArray[np.float64]:
    """Share of a problem's first k samples that succeeded: avg@k, and the boxed rate of boxed flags.

    ``avg@k = (1/P) sum_p (1/k) sum_{i <= k} x_pi``

    Args:
        successes: [P, n], 1 or true where the sample succeeded.
        k: number of samples to use, all n by default.

    Returns:
        [P], one share a problem; their mean is the metric.

    Raises:
        ValueError: if k is not in 1..n, or the array is not [P, n].

    Example:
        >>> avg_at_k([[1, 0, 0, 1], [0, 0, 0, 0]]).tolist()
        [0.5, 0.0]
    """
    matrix = _matrix(successes)
    k = matrix.shape[1] if k is None else k
    _check_k(k, matrix.shape[1])
    return np.asarray(matrix[:, :k].mean(axis=1))


def pass_at_k(successes: ArrayLike, k: int) -> NDArray[np.float64]:
    """Unbiased probability that at least one of k samples succeeds, from n >= k samples.

    ``pass@k = 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1}^{n} (1 - k/i)``

    with c successes among the n samples; 1 where fewer than k failed. The product has no large binomials, so it
    is exact to rounding for every n. Chen et al. 2021, arXiv 2107.03374, equation 1.

    Args:
        successes: [P, n], 1 or true where the sample succeeded.
        k: size of the draw.

    Returns:
        [P], one estimate a problem; their mean is the metric.

    Raises:
        ValueError: if k is not in 1..n, or the array is not [P, n].

    Example:
        One success in 4: of the 6 pairs, 3 hold it.

        >>> pass_at_k([[1, 0, 0, 0]], 2).tolist()
        [0.5]
    """
    matrix = _matrix(successes)
    samples = matrix.shape[1]
    _check_k(k, samples)
    counts = matrix.sum(axis=1).astype(int)
    table = np.array([_pass(samples, correct, k) for correct in range(samples + 1)])
    return table[counts]


def _pass(samples: int, correct: int, k: int) -> float:
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


def _matrix(successes: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(successes, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"successes must be [problems, samples] with at least one of each, got shape {matrix.shape}")
    if not np.isin(matrix, (0.0, 1.0)).all():
        raise ValueError("successes must be 0 or 1; correct the verifier that gave something else")
    return matrix


def _check_k(k: int, samples: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} needs at least {max(k, 1)} samples a problem, and at least 1; there are {samples}")


def bootstrap(
    values: ArrayLike, *, seed: int = 0, level: float = 0.95, resamples: int = 10_000, method: Method = "bca"
) -> Metric:
    """The mean of one value a problem, with a bootstrap interval over problems.

    Problems are drawn with replacement, P of P. With G the distribution of the resampled means and
    ``a1 = (1 - level)/2``, the percentile interval is ``[G^-1(a1), G^-1(1 - a1)]``. BCa moves the two levels:

    ``a -> Phi(z0 + (z0 + z_a) / (1 - a^ (z0 + z_a)))``

    Symbols: ``z_a = Phi^-1(a)``; ``z0 = Phi^-1(P(m* < m) + P(m* = m)/2)`` the bias (a tie counts half, as means of
    0/1 values tie often); ``a^ = sum (x - m)^3 / (6 (sum (x - m)^2)^1.5)`` the acceleration, which for a mean is
    what the jackknife gives. Efron 1987, Journal of the American Statistical Association 82, section 3.

    Args:
        values: [P], for instance from `avg_at_k` or `pass_at_k`.
        seed: of the resampling; the same values and seed give the same interval.
        level: coverage aimed at.
        resamples: number of resampled means.
        method: ``"bca"`` or ``"percentile"``.

    Returns:
        The metric. Where all values are equal the interval has no width: there is nothing to resample, and the
        interval then says nothing about other problems.

    Raises:
        ValueError: if there is no value, one is not finite, or an option is out of range.

    Example:
        >>> result = bootstrap([0.0, 1.0] * 50)
        >>> result.value, round(result.low, 2), round(result.high, 2)
        (0.5, 0.4, 0.6)
    """
    array = np.asarray(values, dtype=np.float64)
    faults = _option_faults(array, level, resamples, method)
    if faults:
        raise ValueError("bootstrap: " + "; ".join(faults))
    mean = float(array.mean())
    if np.all(array == array[0]):
        return Metric(float(array[0]), float(array[0]), float(array[0]), array.size)
    means = _resampled_means(array, resamples, np.random.default_rng(seed))
    tails = ((1 - level) / 2, (1 + level) / 2)
    if method == "bca":
        tails = _bca_tails(array, means, tails)
    low, high = np.quantile(means, tails)
    return Metric(mean, float(low), float(high), array.size)


def _option_faults(array: NDArray[np.float64], level: float, resamples: int, method: str) -> list[str]:
    faults = []
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        faults.append(f"values must be a list of at least one finite number, got shape {array.shape}")
    if not 0 < level < 1:
        faults.append(f"level must lie between 0 and 1, got {level}")
    if resamples < 100:
        faults.append(f"resamples must be at least 100, got {resamples}")
    if method not in METHODS:
        faults.append(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return faults


def _resampled_means(array: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    # Problems of equal value are exchangeable: drawing how often each value occurs is the same bootstrap, and
    # much less work, as values are few (at most n + 1 of them for n samples).
    distinct, counts = np.unique(array, return_counts=True)
    sizes = [min(_BATCH, resamples - start) for start in range(0, resamples, _BATCH)]
    draws = [rng.multinomial(array.size, counts / array.size, size=size) @ distinct for size in sizes]
    return np.asarray(np.concatenate(draws) / array.size)


def _bca_tails(
    array: NDArray[np.float64], means: NDArray[np.float64], tails: tuple[float, float]
) -> tuple[float, float]:
    mean = array.mean()
    # Rounding of sums must not decide whether a resampled mean equals the mean.
    tied = np.isclose(means, mean, rtol=1e-12, atol=1e-12)
    below = float(np.mean((means < mean) & ~tied) + 0.5 * np.mean(tied))
    edge = 0.5 / means.size
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    centred = array - mean
    acceleration = float(np.sum(centred**3) / (6 * np.sum(centred**2) ** 1.5))

    def moved(tail: float) -> float:
        shifted = bias + _NORMAL.inv_cdf(tail)
        return _NORMAL.cdf(bias + shifted / (1 - acceleration * shifted))

    return moved(tails[0]), moved(tails[1])

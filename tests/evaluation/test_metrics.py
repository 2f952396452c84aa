"""avg@k and pass@k against numbers worked out by hand, and intervals against distributions that are known."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.evaluation.metrics import METHODS, Method, avg_at_k, bootstrap, pass_at_k


def row(samples: int, correct: int) -> list[int]:
    return [1] * correct + [0] * (samples - correct)


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (4, 1, 1, 0.25),  # c/n
        (4, 1, 2, 0.5),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        (4, 1, 4, 1.0),  # the one success is in every draw of four
        (4, 2, 2, 5 / 6),  # 1 - C(2,2)/C(4,2) = 1 - 1/6
        (4, 3, 2, 1.0),  # one failure cannot fill a draw of two
        (8, 0, 8, 0.0),
        (16, 3, 4, 1 - 715 / 1820),  # C(13,4) = 715, C(16,4) = 1820
        (32, 1, 16, 0.5),  # the success is in half of all halves
        (32, 5, 8, 1 - 2_220_075 / 10_518_300),  # C(27,8), C(32,8)
    ],
)
def test_pass_at_k_by_hand(samples: int, correct: int, k: int, expected: float) -> None:
    assert pass_at_k([row(samples, correct)], k) == pytest.approx([expected], abs=1e-12)


def test_avg_at_k_by_hand() -> None:
    outcomes = [[1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert avg_at_k(outcomes).tolist() == [0.5, 0.75, 0.0]
    assert avg_at_k(outcomes, 1).tolist() == [1.0, 1.0, 0.0]  # the first sample alone
    assert avg_at_k(outcomes, 3) == pytest.approx([1 / 3, 1.0, 0.0])


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_success(drawn: tuple[int, int, int]) -> None:
    samples, correct, k = drawn
    draws = list(combinations(row(samples, correct), k))
    assert pass_at_k([row(samples, correct)], k)[0] == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


@given(st.integers(1, 2000), st.data())
def test_pass_at_k_of_many_samples_is_exact(samples: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    exact = 1 - comb(samples - correct, k) / comb(samples, k)  # Python's integers do not overflow
    assert pass_at_k([row(samples, correct)], k)[0] == pytest.approx(exact, abs=1e-10)


matrices = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=12)
)


@given(matrices)
def test_pass_at_k_starts_at_avg_grows_and_ends_at_any(outcomes: list[list[bool]]) -> None:
    samples = len(outcomes[0])
    curve = [pass_at_k(outcomes, k) for k in range(1, samples + 1)]
    assert curve[0] == pytest.approx(avg_at_k(outcomes))
    assert all((later >= earlier - 1e-12).all() for earlier, later in pairwise(curve))
    assert curve[-1] == pytest.approx([float(any(one)) for one in outcomes])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k([[1, 0]], 3), "k = 3 needs at least 3 samples a problem.*there are 2"),
        (lambda: avg_at_k([[1, 0]], 3), "k = 3 needs"),
        (lambda: pass_at_k([[1, 0]], 0), "k = 0"),
        (lambda: avg_at_k([]), "at least one of each"),
        (lambda: avg_at_k([1, 0]), r"got shape \(2,\)"),
        (lambda: pass_at_k([[0.5]], 1), "must be 0 or 1"),
        (lambda: bootstrap([]), "at least one finite number"),
        (lambda: bootstrap([float("nan")]), "at least one finite number"),
        (lambda: bootstrap([1.0], level=1.0, resamples=3, method="t"), "level.*resamples.*method"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_computed_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0.0] * 30, [1.0] * 30, [0.25], [0.1] * 7])
def test_equal_values_give_an_interval_without_width(values: list[float], method: Method) -> None:
    result = bootstrap(values, method=method)
    assert (result.value, result.low, result.high, result.n) == (values[0], values[0], values[0], len(values))


def test_the_percentile_interval_of_two_problems_by_hand() -> None:
    # Values 0 and 1: the resampled mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4. So at level 0.4, with tails of
    # 0.3 and 0.7, both ends are 1/2; at level 0.6, with tails of 0.2 and 0.8, they are 0 and 1.
    inner, outer = (bootstrap([0.0, 1.0], level=level, method="percentile") for level in (0.4, 0.6))
    assert (inner.low, inner.high) == (0.5, 0.5)
    assert (outer.low, outer.high) == (0.0, 1.0)


def test_the_percentile_interval_of_a_share_is_the_binomial_one() -> None:
    # 30 successes of 100 resampled: Binomial(100, 0.3). P(X <= 21) = 0.0288, P(X <= 20) = 0.0165, so the 2.5%
    # point is 21; P(X <= 38) = 0.9660, P(X <= 39) = 0.9790, so the 97.5% point is 39.
    result = bootstrap([1.0] * 30 + [0.0] * 70, method="percentile", resamples=100_000)
    assert (result.value, result.low, result.high) == (pytest.approx(0.3), 0.21, 0.39)


def test_bca_moves_both_tails_by_the_skew() -> None:
    # One success of 10: skew sum (x-m)^3 = 0.9^3 + 9 (-0.1)^3 = 0.72, sum (x-m)^2 = 0.81 + 0.09 = 0.9,
    # acceleration 0.72 / (6 * 0.9^1.5) = 0.14055. Resampled successes are Binomial(10, 0.1): P(0) = 0.34868,
    # P(1) = 0.38742, so z0 = Phi^-1(0.34868 + 0.19371) = Phi^-1(0.54239) = 0.10646.
    # Upper: z0 + 1.95996 = 2.06642, divided by 1 - 0.14055 * 2.06642 = 0.70957 -> 2.91222, plus z0 -> 3.01868,
    # Phi = 0.99873. P(X <= 3) = 0.98720, P(X <= 4) = 0.99837, P(X <= 5) = 0.99985: the point is 5, so 0.5.
    # Lower: -1.85350 / (1 + 0.26051) = -1.47043, plus z0 -> -1.36397, Phi = 0.0863 < P(0): the point is 0.
    values = [1.0] + [0.0] * 9
    result = bootstrap(values, resamples=200_000)
    assert (result.low, result.high) == (0.0, 0.5)
    plain = bootstrap(values, resamples=200_000, method="percentile")
    assert plain.high == 0.3  # P(X <= 2) = 0.9298 < 0.975 <= P(X <= 3)


values_lists = st.lists(st.integers(0, 8), min_size=1, max_size=40).map(lambda many: [one / 8 for one in many])


@settings(max_examples=30)
@given(values_lists, st.sampled_from(METHODS), st.integers(0, 5))
def test_an_interval_is_seeded_and_stays_within_the_values(values: list[float], method: Method, seed: int) -> None:
    result = bootstrap(values, seed=seed, resamples=500, method=method)
    turned = bootstrap(list(reversed(values)), seed=seed, resamples=500, method=method)  # the order is nothing
    assert (result.low, result.high) == pytest.approx((turned.low, turned.high))
    assert min(values) <= result.low <= result.high <= max(values)
    assert result.value == pytest.approx(sum(values) / len(values))
    wider = bootstrap(values, seed=seed, resamples=500, method=method, level=0.99)
    assert wider.low <= result.low
    assert wider.high >= result.high


def test_another_seed_gives_another_interval() -> None:
    values = np.random.default_rng(0).random(40)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)
    assert bootstrap(values, seed=1).low == pytest.approx(bootstrap(values, seed=2).low, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_intervals_cover_the_true_mean_as_often_as_they_say(method: Method) -> None:
    # Benchmarks of 60 problems whose chances are Beta(0.6, 1.4), mean 0.3, with 8 samples each. 400 of them: the
    # share that covers 0.3 has a standard error of sqrt(0.95 * 0.05 / 400) = 0.011; three of them and the known
    # shortfall of a bootstrap at this size (about 0.01) give 0.905. 80% intervals: 0.02, so 0.73 to 0.87.
    rng = np.random.default_rng(7)
    benchmarks = [rng.binomial(8, rng.beta(0.6, 1.4, 60)) / 8 for _ in range(400)]

    def coverage(level: float) -> float:
        results = [
            bootstrap(values, seed=n, level=level, resamples=600, method=method) for n, values in enumerate(benchmarks)
        ]
        return sum(result.low <= 0.3 <= result.high for result in results) / len(results)

    assert 0.905 <= coverage(0.95) <= 0.985
    assert 0.73 <= coverage(0.8) <= 0.87


def test_the_width_is_that_of_the_normal_for_many_problems() -> None:
    # 4000 values, uniform on 20 levels: standard deviation sqrt((20^2 - 1)/12)/20 = 0.288314, so the half-width is
    # 1.95996 * 0.288314 / sqrt(4000) = 0.008935.
    values = (np.arange(4000) % 20 + 0.5) / 20
    for method in METHODS:
        result = bootstrap(values, method=method)
        assert (result.high - result.low) / 2 == pytest.approx(0.008935, rel=0.04)
        assert result.value == pytest.approx(0.5)

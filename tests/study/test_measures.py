"""Statistics over seeds, and what is measured of a method's runs; expected numbers are worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.study import made
from verl_ext.study.intervals import (
    estimate,
    first_crossing,
    paired,
    rank_correlation,
    shares,
    student_quantile,
)
from verl_ext.study.measures import by_method, curve

finite = st.floats(-100, 100, allow_nan=False)

# --- intervals


@pytest.mark.parametrize(
    ("degrees", "confidence", "expected"),
    # Any table of Student's t, two-sided.
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.95, 2.776),
        (9, 0.95, 2.262),
        (30, 0.95, 2.042),
        (5, 0.9, 2.015),
    ],
)
def test_students_quantile_is_that_of_the_tables(degrees: int, confidence: float, expected: float) -> None:
    assert student_quantile(degrees, confidence) == pytest.approx(expected, abs=5e-4)


def test_students_quantile_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least one degree"):
        student_quantile(0)


def test_the_interval_of_three_seeds() -> None:
    # mean 0.6; s = sqrt((0.01 + 0 + 0.01) / 2) = 0.1; half = 4.30265 * 0.1 / sqrt(3) = 0.248414
    found = estimate([0.5, 0.6, 0.7])
    assert found.n == 3
    assert (found.mean, found.low, found.high) == pytest.approx((0.6, 0.351586, 0.848414), abs=1e-6)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    found = estimate([0.25])
    assert (found.mean, found.low, found.high, found.n) == (0.25, None, None, 1)


def test_no_seed_is_an_error() -> None:
    with pytest.raises(ValueError, match="no runs"):
        estimate([])


@settings(deadline=None)
@given(st.lists(finite, min_size=2, max_size=8), finite)
def test_the_interval_moves_with_its_values_and_holds_their_mean(values: list[float], shift: float) -> None:
    found, moved = estimate(values), estimate([value + shift for value in values])
    assert found.low is not None
    assert moved.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert moved.low == pytest.approx(found.low + shift, abs=1e-6)


def test_pairs_are_made_of_common_seeds_only() -> None:
    a, b = {1: 0.5, 2: 0.75, 4: 1.0}, {2: 0.5, 3: 0.5, 4: 0.25}
    assert paired(a, b) == {2: 0.25, 4: 0.75}
    assert shares(a, b) == {2: 1.5, 4: 4.0}
    assert shares({1: 1.0, 2: 1.0}, {1: 0.0, 2: 2.0}) == {2: 0.5}


def test_a_paired_difference_knows_what_the_seeds_have_in_common() -> None:
    """Seeds that differ by tens of points and methods by two: only the pairs show it."""
    a, b = {1: 0.30, 2: 0.50, 3: 0.70}, {1: 0.28, 2: 0.48, 3: 0.68}
    assert estimate(paired(a, b).values()).low == pytest.approx(0.02)
    assert estimate(a.values()).low < estimate(b.values()).mean  # type: ignore[operator]


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        ((0.2, 0.5, 0.8), 0.65, 9.0),  # half way from 0.5 to 0.8: 6 + 6/2
        ((0.2, 0.5, 0.8), 0.3, 2.0),  # a third of the way from 0.2 to 0.5: 0 + 6/3
        ((0.2, 0.5, 0.8), 0.5, 6.0),
        ((0.2, 0.5, 0.8), 0.1, 0.0),
        ((0.2, 0.5, 0.8), 0.81, None),
        ((0.2, 0.6, 0.4), 0.5, 4.5),  # the first crossing counts, though the curve falls again: 6 * 0.3/0.4
    ],
)
def test_the_first_crossing_is_between_the_points(
    values: tuple[float, ...], level: float, expected: float | None
) -> None:
    assert first_crossing((0, 6, 12), values, level) == (None if expected is None else pytest.approx(expected))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_a_crossing_exists_exactly_where_a_point_is_as_high(values: list[float], level: float) -> None:
    found = first_crossing(range(len(values)), values, level)
    assert (found is None) == (max(values) < level)
    if found is not None:
        assert all(value < level for value in values[: math.ceil(found)])


def test_rank_correlation() -> None:
    # ranks of a: 1 2 3 4; of b: 1.5 1.5 3 4, with a tie. Products of the deviations from 2.5: 1.5 + 0.5 + 0.25 + 2.25
    # = 4.5; squares: 5 and 4.5; 4.5 / sqrt(22.5) = 0.948683
    assert rank_correlation([1, 2, 3, 4], [7, 7, 8, 9]) == pytest.approx(0.948683, abs=1e-6)
    assert rank_correlation([1, 2, 3], [5, 5, 5]) is None


# --- runs


def test_results_are_grouped_by_method_and_sorted_by_seed() -> None:
    found = by_method([made.result("espo", 3), made.result("espo", 1), made.result("espo", 2, "tiny_moe")])
    assert {key: runs.seeds for key, runs in found.items()} == {
        ("tiny_dense", "espo"): [1, 3],
        ("tiny_moe", "espo"): [2],
    }


def test_averages_thirds_and_ends_of_a_curve() -> None:
    runs = made.runs("espo", (1,), clip_low=[[0, 2, 4, 6, 8, 10]], clip_high=[[1, 1, 1, 1, 1, 7]])
    assert runs.average("clip_low") == {1: 5.0}  # 30 / 6
    assert runs.average("clip_low", "clip_high") == {1: 7.0}  # (30 + 12) / 6
    assert runs.early("clip_low") == {1: 1.0}  # (0 + 2) / 2
    assert runs.late("clip_low") == {1: 9.0}  # (8 + 10) / 2
    assert runs.first("clip_low") == {1: 0.0}
    assert runs.average("no such curve") == {}


def test_seconds_are_medians_and_phases_can_be_taken_out() -> None:
    phases = {"rollout": 1.0, "reference log-probs": 0.25}
    runs = made.runs("erpo", (1,), seconds=[[9, 1.5, 1.5, 1.5, 2, 2]], phases=[phases])
    # sorted: 1.5 1.5 1.5 2 2 9, the middle is (1.5 + 2) / 2
    assert runs.seconds() == {1: 1.75}
    assert runs.seconds(["reference log-probs", "values"]) == {1: 1.5}
    assert runs.phases() == {"rollout": {1: 1.0}, "reference log-probs": {1: 0.25}}


def test_learning_curves_and_the_step_at_which_they_reach_a_score() -> None:
    runs = made.runs("espo", (1, 2), accuracy=[(0.2, 0.4, 0.8), (0.4, 0.4, 0.6)])
    assert runs.accuracy().steps == [0, 3, 6]
    assert runs.accuracy().mean == pytest.approx([0.3, 0.4, 0.7])
    assert (runs.start(), runs.final()) == ({1: 0.2, 2: 0.4}, {1: 0.8, 2: 0.6})
    # the mean curve rises from 0.4 to 0.7 between 3 and 6: 0.6 is two thirds of the way
    assert runs.reaches(0.6) == pytest.approx(5.0)
    # seed 1: from 0.4 to 0.8, 0.6 is half way; seed 2 ends at 0.6 < 0.7
    assert runs.reaches_by_seed({1: 0.6, 2: 0.7, 3: 0.1}) == {1: pytest.approx(4.5), 2: None}


def test_curves_of_different_lengths_are_averaged_where_all_are() -> None:
    found = curve({1: ([1, 2, 3], [1.0, 2.0, 3.0]), 2: ([2, 3], [4.0, 5.0])})
    assert found.steps == [2, 3]
    assert found.mean == [3.0, 4.0]
    assert found.seeds == {1: [2.0, 3.0], 2: [4.0, 5.0]}
    assert curve({}).steps == []

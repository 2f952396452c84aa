"""Each column of the estimators fails for a planted fault, and no other column does; a correct estimator passes all."""

from typing import Any

import pytest

from tests.conformance.specimens import ESTIMATOR_FAULTS, CorrectEstimator
from verl_ext.conformance.battery import examine
from verl_ext.conformance.estimators import Estimator
from verl_ext.conformance.registry import KINDS, subjects

COLUMNS = KINDS["estimator"].columns


def failing(estimator: Any, examples: int = 16) -> dict[str, str]:
    subject = estimator if isinstance(estimator, Estimator) else Estimator("specimen", estimator)
    assert subject.skip == ""
    found = {key: examine(subject, prop, examples) for key, prop in COLUMNS.items()}
    return {key: cell.message for key, cell in found.items() if cell.status == "fail"}


def test_a_correct_estimator_passes() -> None:
    assert failing(CorrectEstimator()) == {}


@pytest.mark.parametrize("estimator", ESTIMATOR_FAULTS, ids=lambda estimator: estimator.__name__)
def test_a_fault_fails_its_own_column(estimator: type[CorrectEstimator]) -> None:
    found = failing(estimator())
    assert set(found) == ESTIMATOR_FAULTS[estimator], found


def test_every_column_has_a_fault() -> None:
    assert set().union(*ESTIMATOR_FAULTS.values()) == set(COLUMNS)


def fails_of_ours(examples: int) -> dict[str, dict[str, str]]:
    ours = [subject for subject in subjects("estimator") if subject.origin == "verl_ext"]
    assert {"espo", "erpo"} <= {subject.name for subject in ours}
    found = {subject.name: failing(subject, examples) for subject in ours}
    return {name: fails for name, fails in found.items() if fails}


def test_our_estimators_pass_a_few_cases() -> None:
    assert fails_of_ours(4) == {}


@pytest.mark.slow
def test_our_estimators_pass() -> None:
    assert fails_of_ours(100) == {}


def test_a_singleton_of_ours_must_be_zero_and_of_others_finite() -> None:
    (opo,) = subjects("estimator", ["opo"])  # keeps the reward of a lone row
    assert examine(opo, COLUMNS["singleton"]).status == "ok"
    opo.origin = "verl_ext"
    assert examine(opo, COLUMNS["singleton"]).status == "fail"


def test_verls_grpo_divides_a_rounding_error() -> None:
    """Three rewards of 0.9: their mean in float32 is one step off, 6e-8, and the spread of 6e-8 is divided by."""
    (grpo,) = subjects("estimator", ["grpo"])
    cell = examine(grpo, COLUMNS["zero_spread"])
    assert cell.status == "fail"
    assert "0.05" in cell.message


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gae", "needs values, gamma, lam"),
        ("remax", "needs reward_baselines"),
        ("reinforce_plus_plus", "has no `index`"),
        ("optimal_token_baseline", "needs old_log_probs, sum_pi_squared"),
    ],
)
def test_estimators_that_compare_no_rows_are_left_out_with_a_reason(name: str, why: str) -> None:
    (estimator,) = subjects("estimator", [name])
    assert why in estimator.skip


def test_pass_at_k_is_not_blamed_for_a_lone_row_but_for_a_lone_padding_row() -> None:
    (passk,) = subjects("estimator", ["grpo_passk"])
    found = failing(passk)
    assert set(found) == {"padding_rows"}
    assert "at least 2 samples" in found["padding_rows"]

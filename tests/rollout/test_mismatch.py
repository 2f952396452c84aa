"""The watch on rollout against actor: figures worked out by hand, and what stops a run."""

from __future__ import annotations

import math

import pytest
import torch

from verl_ext.rollout.mismatch import LIMITS, MismatchError, enforce, measure, refuse_unknown

NAN, INF = math.nan, math.inf
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
ROWS = ["u_0_0", "u_1_0"]


def fields(**changes: list) -> dict[str, torch.Tensor]:
    """|difference| of log-probs 0.5, 0, 0.25, 1 (mean 0.4375) and of entropies 0, 0, 2, 0 (mean 0.5)."""
    found = {
        "rollout_log_probs": [[-1.5, -1.0, -1.0], [-3.0, 9.0, 9.0]],
        "old_log_probs": [[-1.0, -1.0, -1.25], [-2.0, 0.0, 0.0]],
        "rollout_entropies": [[1.0, 1.0, 3.0], [1.0, 9.0, 9.0]],
        "entropy": [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]],
        **changes,
    }
    return {name: torch.tensor(rows) for name, rows in found.items() if rows}


def test_mean_and_maximum_are_over_the_tokens_that_count() -> None:
    assert measure(fields(), MASK) == {
        "training/rollout_log_probs_nonfinite": 0,
        "training/old_log_probs_nonfinite": 0,
        "training/rollout_log_probs_diff_max": 1,
        "training/rollout_log_probs_diff_mean": 0.4375,
        "training/rollout_entropies_nonfinite": 0,
        "training/entropy_nonfinite": 0,
        "training/rollout_entropy_diff_max": 2,
        "training/rollout_entropy_diff_mean": 0.5,
    }


def test_values_that_are_not_finite_are_counted_and_do_not_enter_as_zero() -> None:
    """Without the first two tokens the log-probs differ by 0.25 and 1: mean 0.625, not (0.25 + 1) / 4."""
    found = measure(fields(rollout_log_probs=[[NAN, -INF, -1.0], [-3.0, NAN, NAN]]), MASK)
    assert found["training/rollout_log_probs_nonfinite"] == 2
    assert found["training/old_log_probs_nonfinite"] == 0
    assert found["training/rollout_log_probs_diff_mean"] == 0.625


def test_one_side_alone_is_counted_and_not_compared() -> None:
    found = measure(fields(old_log_probs=[], entropy=[]), MASK)
    assert set(found) == {"training/rollout_log_probs_nonfinite", "training/rollout_entropies_nonfinite"}


def test_a_batch_of_padding_rows_has_differences_of_zero() -> None:
    found = measure(fields(), torch.zeros_like(MASK))
    assert found["training/rollout_log_probs_diff_max"] == found["training/rollout_entropy_diff_mean"] == 0


def check(values: dict[str, torch.Tensor], **limits: float) -> None:
    enforce(measure(values, MASK), {**dict.fromkeys(LIMITS), **limits}, values, MASK, ROWS)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("max_log_prob_difference", 1.0),
        ("mean_log_prob_difference", 0.4375),
        ("max_entropy_difference", 2.0),
        ("mean_entropy_difference", 0.5),
    ],
)
def test_each_limit_stops_the_run_when_it_is_exceeded_and_not_before(limit: str, value: float) -> None:
    check(fields())
    check(fields(), **{limit: value})
    with pytest.raises(MismatchError, match=f"{limit}="):
        check(fields(), **{limit: value - 0.01})


def test_the_explanation_names_the_worst_token_and_the_usual_causes() -> None:
    with pytest.raises(MismatchError) as caught:
        check(fields(), max_log_prob_difference=0.1, max_entropy_difference=0.1)
    text = str(caught.value)
    assert "row u_1_0, token 0: rollout -3, actor -2" in text
    assert "row u_0_0, token 2: rollout 3, actor 1" in text
    assert "1 nats" in text
    assert "precision" in text


def test_a_watched_value_that_is_not_finite_stops_the_run_although_no_difference_shows() -> None:
    values = fields(rollout_entropies=[[1.0, 1.0, NAN], [1.0, 9.0, 9.0]])
    check(values, max_log_prob_difference=2.0)
    with pytest.raises(MismatchError, match="1 values of rollout_entropies are not finite"):
        check(values, max_entropy_difference=2.0)


def test_entropies_that_methods_read_must_be_known() -> None:
    known = torch.tensor([[1.0, 1.0, 1.0], [1.0, NAN, NAN]])
    refuse_unknown(known, MASK, ROWS)
    known[1, 0] = NAN
    with pytest.raises(MismatchError) as caught:
        refuse_unknown(known, MASK, ROWS)
    assert "1 of 4 tokens" in str(caught.value)
    assert "u_1_0" in str(caught.value)
    assert "u_0_0" not in str(caught.value)

"""A log-prob that carries an entropy, through everything that verl does with lists of log-probs."""

from __future__ import annotations

import math
import pickle

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.rollout.token_log_prob import TokenLogProb, TokenLogProbs, entropies_of, joined

FLOATS32 = st.floats(width=32, allow_nan=False)


def test_it_is_the_float_that_it_was() -> None:
    token = TokenLogProb(-0.5, 1.25)
    assert token == -0.5
    assert math.exp(token) == math.exp(-0.5)
    assert token.entropy == 1.25


@pytest.mark.parametrize("library", [pickle, cloudpickle])
@given(st.lists(st.tuples(FLOATS32, FLOATS32)))
def test_both_numbers_survive_the_way_between_processes(library: object, pairs: list[tuple[float, float]]) -> None:
    sent = joined([log_prob for log_prob, _ in pairs], [entropy for _, entropy in pairs])
    got = library.loads(library.dumps(sent))  # type: ignore[attr-defined]
    assert type(got) is TokenLogProbs
    assert [(float(token), token.entropy) for token in got] == pairs
    as_plain_list = library.loads(library.dumps(list(sent)))  # type: ignore[attr-defined]
    assert [(float(token), token.entropy) for token in as_plain_list] == pairs


def test_a_list_is_sent_as_two_arrays_and_not_as_one_object_a_token() -> None:
    """8 bytes for a log-prob and 4 for an entropy; a pickled object would take more than 20."""
    sent = joined([-0.5] * 10_000, [1.25] * 10_000)
    assert len(pickle.dumps(sent)) < 10_000 * 12 + 1_000
    assert len(pickle.dumps(list(sent))) > 10_000 * 20


def test_lists_of_other_lengths_are_not_paired() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        joined([-0.5, -0.5], [1.0])


def test_joining_slicing_and_the_zeros_of_tool_tokens_keep_each_entropy_with_its_token() -> None:
    first, second = joined([-1.0, -2.0], [0.1, 0.2]), joined([-3.0, -4.0], [0.3, 0.4])
    response = [*first, 0.0, 0.0, *second][:5]
    mask = [1, 1, 0, 0, 1]
    assert entropies_of(response, mask) == pytest.approx([0.1, 0.2, 0, 0, 0.3])


def test_an_entropy_that_is_not_known_is_nan_and_not_zero() -> None:
    assert math.isnan(entropies_of([-0.5], [1])[0])
    assert [math.isnan(value) for value in entropies_of([TokenLogProb(-0.5, 1.0)], [1, 1])] == [False, True]
    assert [math.isnan(value) for value in entropies_of(None, [1, 0])] == [True, False]

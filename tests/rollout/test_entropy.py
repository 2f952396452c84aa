"""The entropy pass on the CPU: its values, what it does to NaN, and how much memory it takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from verl_ext.rollout.entropy import entropies, tagged_entropies
from verl_ext.rollout.payload import decode, encode

LARGE = 151936
TOLERANCE = 1e-5  # of the issue; measured 2e-7


def rows(count: int, vocabulary: int, spread: float = 3.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, vocabulary, generator=generator) * spread).log_softmax(-1)


def reference(log_probs: torch.Tensor) -> torch.Tensor:
    """In float64, from the definition; `xlogy` is 0 at p = 0."""
    probs = log_probs.double().exp()
    return -torch.special.xlogy(probs, probs).sum(-1)


def naive(log_probs: torch.Tensor) -> torch.Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def allocated(function: Callable[[torch.Tensor], torch.Tensor], log_probs: torch.Tensor) -> int:
    """Bytes that the CPU allocator handed out during a call, whether or not they were given back; inside of
    compiled code too. The first call compiles, and is not counted."""
    function(log_probs)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function(log_probs)
    return sum(max(0, event.self_cpu_memory_usage) for event in recorded.events())


def test_values_worked_out_by_hand() -> None:
    """(1/2, 1/4, 1/4): 1/2 ln 2 + 2 x 1/4 x 2 ln 2 = 3/2 ln 2. (9/10, 1/10): 0.9 x 0.105361 + 0.1 x 2.302585
    = 0.094824 + 0.230259 = 0.325083. Four equal ones: ln 4. All on one: 0."""
    probs = torch.tensor([[0.5, 0.25, 0.25, 0, 0], [0.9, 0.1, 0, 0, 0], [0, 0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0, 0]])
    expected = torch.tensor([1.5 * math.log(2), 0.325083, math.log(4), 0])
    torch.testing.assert_close(entropies(probs.log()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("vocabulary", [1, 2, 259, LARGE])
def test_equals_float64(vocabulary: int, spread: float) -> None:
    log_probs = rows(5, vocabulary, spread)
    found = entropies(log_probs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), reference(log_probs), rtol=0, atol=TOLERANCE)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 6), st.integers(7, 40), st.floats(0, 50), st.floats(0, 1), st.integers(0, 9))
def test_tokens_that_cannot_be_sampled_add_nothing(
    count: int, vocabulary: int, spread: float, banned: float, seed: int
) -> None:
    """Random rows with -inf in them, never everywhere: as if these tokens were not in the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, vocabulary, generator=generator) * spread
    out = torch.rand(count, vocabulary, generator=generator) < banned
    out[:, 0] = False
    log_probs = logits.masked_fill(out, -math.inf).log_softmax(-1)
    expected = [reference(row[~banned_here]) for row, banned_here in zip(log_probs, out, strict=True)]
    torch.testing.assert_close(entropies(log_probs).double(), torch.stack(expected), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("vocabulary", [2, 259, LARGE])
def test_certainty_is_zero_and_not_minus_zero(vocabulary: int) -> None:
    """Without the sign, so that the payload of a certain token is the tag alone."""
    log_probs = torch.full((3, vocabulary), -math.inf)
    log_probs[:, vocabulary // 2] = 0
    assert tagged_entropies(log_probs).tolist() == encode(torch.zeros(3)).tolist()


@pytest.mark.parametrize("position", [0, 100, 258])
def test_nan_stays_nan_and_in_its_row(position: int) -> None:
    log_probs = rows(4, 259)
    log_probs[:, 7] = -math.inf
    whole = entropies(log_probs)
    log_probs[2, position] = math.nan
    found = entropies(log_probs)
    assert found.isnan().tolist() == [False, False, True, False]
    assert found[[0, 1, 3]].equal(whole[[0, 1, 3]])


def test_any_layout() -> None:
    log_probs = rows(4, 259)
    gaps = torch.full((4, 600), math.nan)[:, 3:521:2]  # between rows, and between columns
    gaps.copy_(log_probs)
    torch.testing.assert_close(entropies(gaps), entropies(log_probs), rtol=0, atol=1e-6)


def test_an_empty_batch() -> None:
    assert entropies(torch.empty(0, 259)).shape == (0,)
    assert tagged_entropies(torch.empty(0, 259)).dtype == torch.int64


def test_the_input_is_left_alone() -> None:
    """vLLM gathers the log-probs of the sampled tokens from the same matrix."""
    log_probs = rows(3, 259)
    before = log_probs.clone()
    tagged_entropies(log_probs)
    assert log_probs.equal(before)


def test_tagged_entropies_are_the_entropies() -> None:
    log_probs = rows(3, 259)
    assert decode(tagged_entropies(log_probs).tolist()) == entropies(log_probs).tolist()


def test_no_second_matrix_is_allocated() -> None:
    """64 rows of 151,936: less than one row in all, where the plain formula takes at least two whole matrices."""
    log_probs = rows(64, LARGE)
    matrix = log_probs.numel() * log_probs.element_size()
    assert allocated(tagged_entropies, log_probs) < matrix // 64
    assert allocated(naive, log_probs) >= 2 * matrix


def test_a_compiled_pass_serves_every_batch_size_of_an_engine() -> None:
    """vLLM marks the rows as of unknown number before it hands them over; a compilation for each number of running
    requests would stop the engine for seconds each time, and after eight of them torch gives up compiling."""
    from torch._dynamo.decorators import mark_unbacked

    def as_vllm_does(count: int) -> torch.Tensor:
        log_probs = rows(count, 259)
        mark_unbacked(log_probs, 0)
        return tagged_entropies(log_probs)

    with torch.inference_mode():
        as_vllm_does(1)
        with torch.compiler.set_stance("fail_on_recompile"):
            for count in (5, 32, 1, 2, 256):
                assert len(as_vllm_does(count)) == count

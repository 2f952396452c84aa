"""Entropies through verl's own server, client and agent loops, around a real vLLM on the CPU.

One run of ``server_probe.py``, looked at from several sides. Reference: a float64 pass of transformers.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.platform import programs

pytestmark = pytest.mark.ray

ENTROPY, LOG_PROB = 1e-4, 1e-5


@pytest.fixture(scope="module")
def found() -> Any:
    return programs.run(programs.HERE.parent / "rollout" / "server_probe.py", limit_s=420).result()


def worst(row: dict[str, Any], what: str, against: str = "reference", start: int = 0, end: int | None = None) -> float:
    pairs = list(zip(row[what], row[against][what], strict=True))[start:end]
    return max(abs(one - other) for one, other in pairs)


def test_every_token_comes_back_with_its_entropy(found: Any) -> None:
    assert len(found["plain"]) == 8
    for row in found["plain"]:
        assert row["tokens"] == 30
        assert worst(row, "entropies") <= ENTROPY
        assert worst(row, "log_probs") <= LOG_PROB
    values = [value for row in found["plain"] for value in row["entropies"]]
    assert max(values) - min(values) > 1, "the model's entropies are too even to notice a misalignment"


def test_a_request_without_log_probs_is_served_as_ever(found: Any) -> None:
    assert found["without log-probs"] is None


def test_pieces_of_an_aborted_response_keep_the_entropies_of_the_weights_that_sampled_them(found: Any) -> None:
    """The definition of "old entropy" for a response that spans weight versions: token by token, the sampler's own."""
    assert len(found["interrupted"]) == 4
    for row in found["interrupted"].values():
        assert sum(row["pieces"]) == row["tokens"] == 440
        first, *rest = row["pieces"]
        assert rest, "the response was not interrupted"
        assert 0 < first < 440
        for what, limit in (("entropies", ENTROPY), ("log_probs", LOG_PROB)):
            assert worst(row, what, end=first) <= limit
            assert worst(row, what, "second reference", start=first) <= limit
            # Neither version alone explains the response: the two would have been told apart.
            assert worst(row, what, start=first) > 0.1
            assert worst(row, what, "second reference", end=first) > 0.1


def test_a_response_is_cut_to_the_response_length(found: Any) -> None:
    row = found["loops"]["single turn"]
    assert row["mask"] == [1] * 40
    assert worst(row, "entropies") <= ENTROPY
    assert row["dtype"] == "torch.float32"


@pytest.mark.parametrize("name", ["tools", "tools, cut"])
def test_tokens_of_tools_have_none_and_tokens_of_later_turns_keep_theirs(found: Any, name: str) -> None:
    row = found["loops"][name]
    mask = row["mask"]
    turns = "".join(map(str, mask)).strip("0").split("0")
    assert len([turn for turn in turns if turn]) >= 2, "there was no second turn"
    assert len(mask) == len(row["entropies"]) == len(row["log_probs"]) <= 40
    for own, entropy, expected in zip(mask, row["entropies"], row["reference"]["entropies"], strict=True):
        assert abs(entropy - expected) <= ENTROPY if own else entropy == 0
    for own, log_prob, expected in zip(mask, row["log_probs"], row["reference"]["log_probs"], strict=True):
        assert abs(log_prob - expected) <= LOG_PROB if own else log_prob == 0


def test_a_turn_that_exceeds_the_response_length_is_cut(found: Any) -> None:
    """Answers of 17 tokens, each followed by the tool's: the third turn would end beyond 40."""
    assert len(found["loops"]["tools, cut"]["mask"]) == 40
    assert len(found["loops"]["tools"]["mask"]) <= 40

"""The tap in a real vLLM on the CPU: the entropy of every generated token, against float64."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import pytest

from tests.platform import programs
from verl_ext.rollout import tap
from verl_ext.rollout.payload import TAG, UntaggedRankError, decode

PROBE = programs.HERE.parent / "rollout" / "engine_probe.py"
ENTROPY_TOLERANCE = 1e-4
LOG_PROB_TOLERANCE = 1e-5

SMALL = ("tiny_dense", 259)
CROSSED = [("tiny_dense", 151936), ("tiny_moe", 259)]
ENGINES = [SMALL, *CROSSED, ("tiny_moe", 151936)]

Record = dict[str, Any]

needs_engine = pytest.mark.ray
# Either model and either vocabulary in every run; the other two pairings, half a minute each, by hand.
both_models_and_vocabularies = pytest.mark.parametrize(
    ("kind", "vocabulary"),
    [
        pytest.param(kind, size, id=f"{kind}-{size}", marks=[pytest.mark.slow] if (kind, size) in CROSSED else [])
        for kind, size in ENGINES
    ],
)


@pytest.fixture(scope="session")
def probed() -> Callable[..., Any]:
    """Runs a program once for all tests that look at it; the JSON of one of its suites."""
    programmes = {SMALL: ("basic", "requests", "drafts", "raw")}
    done: dict[tuple, Any] = {}

    def result(kind: str, vocabulary: int, suite: str, tapped: str = "1") -> Any:
        suites = programmes.get((kind, vocabulary), ("basic",))
        suites = suites if suite in suites else (suite,)
        key = (kind, vocabulary, suites)
        if key not in done:
            env = {tap.VARIABLE: tapped, "PYTHONPATH": str(programs.HERE.parent.parent)}
            done[key] = programs.run(PROBE, kind, str(vocabulary), *suites, limit_s=300, **env).result()
        return done[key][suite]

    return result


def furthest(left: list[float], right: list[float]) -> float:
    """Largest distance; NaN where either holds one, so that no comparison with it can pass."""
    assert len(left) == len(right)
    distances = [abs(a - b) for a, b in zip(left, right, strict=True)]
    return float("nan") if any(d != d for d in distances) else max(distances)


def assert_exact(record: Record) -> None:
    """One entropy and one log-prob for each token, each that of the reference at the same place."""
    entropies = decode(record["ranks"])
    assert len(entropies) == len(record["ids"]) > 0
    assert furthest(record["log_probs"], record["expected"]["log_probs"]) <= LOG_PROB_TOLERANCE, record["case"]
    assert furthest(entropies, record["expected"]["entropies"]) <= ENTROPY_TOLERANCE, record["case"]


def chosen(records: list[Record], case: str, count: int) -> list[Record]:
    found = [record for record in records if record["case"] == case]
    assert len(found) == count
    return found


# Basic: dense and mixture of experts, both vocabularies.


@needs_engine
@both_models_and_vocabularies
def test_every_token_has_the_entropy_and_the_log_prob_of_the_reference(probed, kind: str, vocabulary: int) -> None:
    records = probed(kind, vocabulary, "basic")["records"]
    assert len(records) == 4 + 8 + 8
    assert {record["options"]["temperature"] for record in records} == {0.6, 1.0}
    for record in records:
        assert len(record["ids"]) == record["options"]["max_tokens"]
        assert_exact(record)


@needs_engine
@both_models_and_vocabularies
def test_a_shift_by_one_token_or_a_left_out_temperature_would_show(probed, kind: str, vocabulary: int) -> None:
    """The negative control: neighbouring entropies, and those of both temperatures, are far from each other."""
    for record in probed(kind, vocabulary, "basic")["records"]:
        found, expected = decode(record["ranks"]), record["expected"]["entropies"]
        assert max(expected) - min(expected) > 100 * ENTROPY_TOLERANCE
        assert furthest(found[1:], expected[:-1]) > 100 * ENTROPY_TOLERANCE
        assert furthest(found[:-1], expected[1:]) > 100 * ENTROPY_TOLERANCE
        if record["options"]["temperature"] != 1.0:
            assert furthest(found, record["plain"]["entropies"]) > 100 * ENTROPY_TOLERANCE


@needs_engine
@both_models_and_vocabularies
def test_the_tokens_come_from_the_whole_vocabulary(probed, kind: str, vocabulary: int) -> None:
    ids = [token for record in probed(kind, vocabulary, "basic")["records"] for token in record["ids"]]
    assert min(ids) < 0.1 * vocabulary
    assert max(ids) > 0.9 * vocabulary


@needs_engine
@both_models_and_vocabularies
def test_prompts_longer_than_a_step_were_prefilled_in_chunks_beside_decoding(probed, kind, vocabulary) -> None:
    basic = probed(kind, vocabulary, "basic")
    budget = 32
    assert max(sum(step.values()) for step in basic["steps"]) <= budget
    (long,) = (record for record in chosen(basic["records"], "lengths", 4) if record["prompt"] == 90)
    name = "2"  # the third request of the first batch; vLLM appends a random suffix to the name
    pieces = [step for step in basic["steps"] if any(key.split("-")[0] == name for key in step)]
    sizes = [size for step in pieces for key, size in step.items() if key.split("-")[0] == name]
    assert sum(1 for size in sizes if size > 1) >= 3
    assert any(size > 1 and len(step) > 1 and min(step.values()) == 1 for step, size in zip(pieces, sizes, strict=True))
    assert_exact(long)


@needs_engine
@both_models_and_vocabularies
def test_a_cached_prefix_and_eight_responses_of_one_prompt(probed, kind: str, vocabulary: int) -> None:
    records = probed(kind, vocabulary, "basic")["records"]
    again = chosen(records, "second eight", 8)
    assert [record["cached"] for record in again] == [96] * 8  # three whole blocks of 32 of the prompt's 100 tokens
    for eight in (chosen(records, "first eight", 8), again):
        assert len({tuple(record["ids"]) for record in eight}) > 4
        # All eight draw their first token from one distribution.
        firsts = [decode(record["ranks"])[0] for record in eight]
        assert max(firsts) - min(firsts) <= ENTROPY_TOLERANCE
        for record in eight:
            assert_exact(record)


# Requests that differ in one batch.


@needs_engine
def test_three_temperatures_in_one_batch_greedy_counting_as_one(probed) -> None:
    records = chosen(probed(*SMALL, "basic")["requests"], "temperatures", 3)
    assert [record["options"]["temperature"] for record in records] == [0.6, 1.0, 0.0]
    for record in records:
        assert_exact(record)
    assert set(records[2]["expected"]["ranks"]) == {1}


@needs_engine
def test_a_batch_of_greedy_requests_only(probed) -> None:
    for record in chosen(probed(*SMALL, "basic")["requests"], "greedy", 2):
        assert_exact(record)
        assert set(record["expected"]["ranks"]) == {1}


@needs_engine
def test_tokens_that_cannot_be_sampled_add_nothing(probed) -> None:
    """Allowed tokens, bad words, a minimum length and biases: the entropy is of what remains, renormalised."""
    records = chosen(probed(*SMALL, "basic")["requests"], "banned", 4)
    for record in records:
        assert_exact(record)
        assert furthest(decode(record["ranks"]), record["plain"]["entropies"]) > 10 * ENTROPY_TOLERANCE
    allowed, _, minimum, _ = records
    assert max(decode(allowed["ranks"])) < 3.4012  # ln 30: thirty tokens are allowed
    assert minimum["finish"] == "stop"
    assert 8 < len(minimum["ids"]) < 40
    assert minimum["ids"][-1] in minimum["options"]["stop_token_ids"]


@needs_engine
def test_a_stop_string_cuts_the_text_but_no_entropy(probed) -> None:
    records = chosen(probed(*SMALL, "basic")["requests"], "stop string", 4)
    for record in records:
        assert_exact(record)
    stopped = [record for record in records if record["finish"] == "stop" and record["ids"][-1] != 257]
    assert len(stopped) >= 2
    for record in stopped:
        assert record["ids"][-2:] == [ord("x"), ord("y")]
        assert "xy" not in record["text"]


# What must stay as it is.


@needs_engine
def test_prompt_log_probs_keep_their_ranks_beside_the_entropies(probed) -> None:
    basic = probed(*SMALL, "basic")
    assert len(basic["prompt"]["ranks"]) == 39
    assert basic["prompt"]["ranks"] == basic["prompt"]["expected"]["ranks"]
    for record in chosen(basic["requests"], "prompt log-probs", 1):
        assert_exact(record)


@needs_engine
@pytest.mark.parametrize(("case", "count"), [("two", 1), ("beside two", 2)])
def test_a_batch_that_asks_for_more_log_probs_has_ranks_that_are_not_decoded(probed, case: str, count: int) -> None:
    assert_untapped(probed(*SMALL, "basic")[case], case, count, "expected")


@needs_engine
def test_raw_log_probs_come_with_ranks_that_are_not_decoded(probed) -> None:
    assert_untapped(probed(*SMALL, "raw")["records"], "unlike", 2, "plain")


@needs_engine
def test_without_the_variable_ranks_are_ranks_and_are_not_decoded(probed) -> None:
    assert_untapped(probed(*SMALL, "untapped", tapped="0")["records"], "unlike", 2, "expected")


def assert_untapped(records: list[Record], case: str, count: int, distribution: str) -> None:
    for record in chosen(records, case, count):
        assert record["ranks"] == record[distribution]["ranks"]
        assert furthest(record["log_probs"], record[distribution]["log_probs"]) <= LOG_PROB_TOLERANCE
        with pytest.raises(UntaggedRankError, match=r"token 0 came back with rank \d+ instead of an entropy"):
            decode(record["ranks"])


# Speculative decoding, and responses in pieces.


@needs_engine
@pytest.mark.parametrize(("case", "count"), [("drafts", 2), ("mixed drafts", 3), ("greedy drafts", 2)])
def test_accepted_drafts_have_the_entropy_of_the_target_model(probed, case: str, count: int) -> None:
    drafts = probed(*SMALL, "drafts")
    # Some right and some wrong: both paths of the rejection sampler were taken.
    assert 20 < drafts["accepted"] < drafts["drafted"] - 20
    for record in chosen(drafts["records"], case, count):
        assert len(record["ids"]) == 30
        assert_exact(record)


@needs_engine
def test_the_pieces_of_an_aborted_and_resumed_response_make_one_row(probed) -> None:
    resumed = probed(*SMALL, "resumed")
    assert len(resumed["answers"]) == 3
    for pieces, (prompt, options) in zip(resumed["answers"], resumed["requests"], strict=True):
        assert [piece["finish"] for piece in pieces] == ["abort", "abort", "length"]
        assert min(len(piece["ids"]) for piece in pieces) >= 1
        assert sum(len(piece["ids"]) for piece in pieces) == options["max_tokens"]
        assert [piece["prompt"] for piece in pieces] == [
            len(prompt) + sum(len(piece["ids"]) for piece in pieces[:i]) for i in range(3)
        ]
        for piece in pieces:
            assert_exact(piece)


# Refusals, without an engine.


@pytest.fixture
def fresh(monkeypatch) -> pytest.MonkeyPatch:
    """The tap as in a process that has not installed it."""
    monkeypatch.setattr(tap, "_installed", False)
    monkeypatch.setattr(tap.wrapt, "register_post_import_hook", lambda *_: None)
    return monkeypatch


@pytest.mark.parametrize("found", ["0.23.1", "0.29.0", "0.28.1+cpu", "0.28.0rc1"])
def test_another_vllm_is_refused_with_both_versions_named(fresh, found: str) -> None:
    fresh.setenv(tap.VARIABLE, "1")
    fresh.setattr(importlib.metadata, "version", lambda _: found)
    with pytest.raises(tap.UnsupportedVLLMError, match=r"0\.24\.0 and 0\.28\.0; installed is vLLM ") as refused:
        tap.install()
    assert f"vLLM {found.split('+')[0]}." in str(refused.value)
    assert not tap._installed


@pytest.mark.parametrize("found", ["0.24.0", "0.28.0", "0.28.0+cpu"])
def test_the_supported_ones_are_accepted(fresh, found: str) -> None:
    fresh.setenv(tap.VARIABLE, "1")
    fresh.setattr(importlib.metadata, "version", lambda _: found)
    tap.install()
    assert tap._installed


def test_no_version_is_looked_at_where_the_tap_is_not_asked_for(fresh) -> None:
    fresh.delenv(tap.VARIABLE, raising=False)
    fresh.setattr(importlib.metadata, "version", lambda _: "0.1.0")
    tap.install()
    assert not tap._installed


def test_the_tag_is_above_every_rank() -> None:
    assert TAG > 2**32

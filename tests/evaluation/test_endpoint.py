"""Evaluation of a model behind an endpoint: a server in this process stands for it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.evaluation import made
from verl_ext.evaluation import scoring
from verl_ext.evaluation.command import app
from verl_ext.evaluation.endpoint import EndpointError
from verl_ext.evaluation.engine import sample_seed
from verl_ext.evaluation.run import BenchmarkFile, Decoding, Endpoint, Request, RequestError, evaluate, summaries
from verl_ext.evaluation.store import Store

KEY = "sk-very-secret-1234"
NOW = {"retry-after-ms": "5"}


@pytest.fixture(autouse=True)
def made_verifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_verifiers", made.verifiers)


def request(tmp_path: Path, problems: int = 4, **changes: Any) -> Request:
    file = made.benchmark(tmp_path / "bench.parquet", problems)
    endpoint = Endpoint("some-model", "THE_URL", "THE_KEY", concurrency=3, retries=2)
    decodings = {"bench": Decoding(0.7, 0.9, 2, 50)}
    wanted = {"model": endpoint, "benchmarks": [BenchmarkFile("bench", file)], "decodings": decodings}
    return Request(**{**wanted, "out": tmp_path / "out", "verifier": "made", "seed": 5, "part_rows": 1, **changes})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(url: str) -> None:
        monkeypatch.setenv("THE_URL", url)
        monkeypatch.setenv("THE_KEY", KEY)

    return use


def test_every_response_is_asked_for_once_with_the_decoding(tmp_path: Path, environment: Any) -> None:
    def answer(body: dict[str, Any], number: int) -> made.Answer:
        time.sleep(0.02)
        return made.completion("a boxed correct" if body["seed"] % 2 else "wrong", "stop" if number > 1 else "length")

    asked = request(tmp_path)
    with made.serving(answer) as (server, url):
        environment(url)
        summary = evaluate(asked)["bench"]
        again = evaluate(asked)["bench"]
    assert again == summary
    assert len(server.requests) == 4 * 2  # the second start asked for nothing
    assert server.keys == {f"Bearer {KEY}"}
    assert 1 < server.most <= 3
    seeds = {(p, n): sample_seed(5, "bench", p, n) for p in range(4) for n in range(2)}
    assert {body["seed"] for body in server.requests} == set(seeds.values())
    body = server.requests[0]
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("some-model", 0.7, 0.9, 50)
    rows = pq.read_table(tmp_path / "out/bench/generations.parquet").to_pylist()
    assert [(row["index"], row["sample"]) for row in rows] == sorted(seeds)
    for row in rows:
        expected = "a boxed correct" if seeds[row["index"], row["sample"]] % 2 else "wrong"
        assert (row["response"], row["tokens"]) == (expected, 7)
    odd = sum(seed % 2 for seed in seeds.values())
    assert summary.metrics["avg@2"].value == summary.metrics["fmt"].value == odd / 8
    assert (summary.outcomes["correct"], summary.outcomes["wrong"]) == (odd, 8 - odd)
    assert summary.truncated == summary.finish_reasons["length"] == 1
    assert "1 of 8 responses were cut off" in summary.notes[-1]
    assert summary.model_identity == {"name": "some-model", "endpoint": url}


def test_what_may_pass_is_tried_again_and_what_is_missing_is_asked_for_next_time(
    tmp_path: Path, environment: Any
) -> None:
    def shaky(body: dict[str, Any], number: int) -> made.Answer:
        if number % 2:
            return 429 if number % 4 == 1 else 500, NOW, {"error": {"message": "later"}}
        return made.completion("correct")

    def refusing(body: dict[str, Any], number: int) -> made.Answer:
        if body["messages"][0]["content"] == texts[1]:
            return 400, {}, {"error": {"message": f"not with {KEY}"}}
        return made.completion("correct")

    asked = request(tmp_path)
    texts = [row["prompt"][0]["content"] for row in pq.read_table(tmp_path / "bench.parquet").to_pylist()]
    with made.serving(refusing) as (server, url):
        environment(url)
        with pytest.raises(EndpointError) as raised:
            evaluate(asked)
        assert len(server.requests) == 8  # a request at fault is not tried again, and the others go on
        assert "bench problem 1 sample 0: BadRequestError" in str(raised.value)
        assert "***" in str(raised.value)
        assert KEY not in str(raised.value)
        assert Store(tmp_path / "out/bench").done() == 6
        server.requests.clear()
        server.answer = shaky
        assert evaluate(asked)["bench"].metrics["avg@2"].value == 1.0
    assert {body["messages"][0]["content"] for body in server.requests} == {texts[1]}
    assert len(server.requests) == 4  # each of two was refused once


def test_retries_end(tmp_path: Path, environment: Any) -> None:
    with made.serving(lambda body, number: (503, NOW, {"error": "down"})) as (server, url):
        environment(url)
        with pytest.raises(EndpointError, match="InternalServerError"):
            evaluate(request(tmp_path, problems=1, decodings={"bench": Decoding()}))
    assert len(server.requests) == 1 + 2


def test_an_unknown_key_ends_it_at_once_and_is_nowhere(tmp_path: Path, environment: Any) -> None:
    def answer(body: dict[str, Any], number: int) -> made.Answer:
        return 401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}}

    file = made.benchmark(tmp_path / "bench.parquet", 40)
    with made.serving(answer) as (server, url):
        environment(url.replace("127.0.0.1", f"user:{KEY}@127.0.0.1"))
        options = ["--endpoint", "--base-url-env", "THE_URL", "--api-key-env", "THE_KEY", "--verifier", "made"]
        result = CliRunner().invoke(
            app, ["run", "m", "--benchmark", str(file), *options, "--out", str(tmp_path / "out")]
        )
    assert result.exit_code == 1
    assert len(server.requests) <= 8  # what was under way at once
    assert "AuthenticationError" in result.output
    assert KEY not in result.output
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert (tmp_path / "out/bench/request.json") in written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    found = json.loads((tmp_path / "out/bench/request.json").read_text())["identity"]["model"]["endpoint"]
    assert found == url


def test_an_answer_without_content_or_count_is_kept_as_it_is(tmp_path: Path, environment: Any) -> None:
    with made.serving(lambda body, number: made.completion(None, "content_filter", None)) as (_, url):
        environment(url)
        summary = evaluate(request(tmp_path))["bench"]
    assert summary.tokens is None
    assert summary.finish_reasons == {"content_filter": 8}
    assert summary.outcomes["unparsable"] == 8
    ((_, (shown,)),) = summaries(tmp_path / "out")
    assert shown == summary


def test_an_answer_without_a_choice_is_a_missing_response(tmp_path: Path, environment: Any) -> None:
    empty = made.completion("x")[2] | {"choices": []}
    with made.serving(lambda body, number: (200, {}, empty)) as (_, url):
        environment(url)
        with pytest.raises(EndpointError, match="without a choice"):
            evaluate(request(tmp_path, problems=1))


def test_variables_that_are_not_set_are_named_with_all_other_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THE_URL", raising=False)
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(RequestError) as raised:
        evaluate(request(tmp_path, decodings={"bench": Decoding(top_k=5)}, verifier="none"))
    for words in ("THE_URL is not set", "THE_KEY is not set", "top_k 5 cannot be asked", "no verifier none"):
        assert words in str(raised.value)

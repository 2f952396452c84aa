"""Requests and benchmark files that are refused, and the folder that a run goes on in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.evaluation import made
from verl_ext.evaluation import store as store_module
from verl_ext.evaluation.benchmark import read
from verl_ext.evaluation.engine import sample_seed
from verl_ext.evaluation.request import BenchmarkFile, Decoding, EngineOptions, Request, RequestError, fingerprint
from verl_ext.evaluation.store import Generation, PartWriter, Store, locked
from verl_ext.toy.task import problems, row


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(b"\x00" * (3 << 20))
    return folder


def request(tmp_path: Path, model: Path, **changes: Any) -> Request:
    wanted = {
        "model": str(model),
        "benchmarks": [BenchmarkFile("bench", made.benchmark(tmp_path / "bench.parquet", 3))],
        "decodings": {"bench": Decoding(1.0, 1.0, 2, 16)},
        "out": tmp_path / "out",
    }
    return Request(**{**wanted, **changes})


def claim(asked: Request) -> Store:
    benchmark = read(asked.benchmarks[0])
    store = Store(asked.out / "bench")
    store.claim(asked.identity("bench", benchmark.sha256), str(asked.model), benchmark)
    return store


def generation(index: int, sample: int, text: str = "x") -> Generation:
    return Generation(index, sample, "p", text, 1, "stop")


# The request.


def test_all_faults_of_a_request_are_named_at_once(tmp_path: Path) -> None:
    files = [BenchmarkFile("a/b", tmp_path), BenchmarkFile("twice", tmp_path), BenchmarkFile("twice", tmp_path)]
    bad = Decoding(float("nan"), 0.0, 0, 0, 0)
    asked = Request("./absent", files, {"twice": bad}, tmp_path, seed=-1, part_rows=0)
    text = "\n".join(asked.faults())
    for fault in (
        "benchmark twice is named twice", "'a/b' cannot be a folder's name", "a/b has no decoding", "temperature nan",
        "top_p 0.0", "top_k 0", "samples 0", "max_tokens 0", "./absent: no such folder", "seed -1", "part_rows 0",
    ):  # fmt: skip
        assert fault in text, text
    assert Request("org/model", [], {}, tmp_path).faults() == ["no benchmark is named"]


def test_greedy_decoding_has_one_sample() -> None:
    assert Decoding(0.0, samples=1).faults() == []
    assert Decoding(0.6, samples=32).faults() == []
    (fault,) = Decoding(0.0, samples=4).faults()
    assert "samples 4 with temperature 0" in fault


# The benchmark file.


def refused(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    with pytest.raises(RequestError) as raised:
        read(BenchmarkFile("bench", made.table(tmp_path / "bad.parquet", rows)))
    return str(raised.value)


def test_a_benchmark_without_a_column_or_row_or_that_is_none_is_refused(tmp_path: Path) -> None:
    good = row(problems("validation", 1, 0)[0], 0)
    assert "has no column reward_model" in refused(tmp_path, [{"prompt": good["prompt"]}])
    pq.write_table(pq.read_table(made.benchmark(tmp_path / "b.parquet", 1)).slice(1), tmp_path / "none.parquet")
    for name, words in (("none.parquet", "has no row"), ("absent.parquet", "cannot be read as parquet")):
        with pytest.raises(RequestError, match=words):
            read(BenchmarkFile("bench", tmp_path / name))
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(RequestError, match="cannot be read as parquet"):
        read(BenchmarkFile("bench", tmp_path / "text.parquet"))


def test_bad_rows_are_listed(tmp_path: Path) -> None:
    rows = [row(problem, n) for n, problem in enumerate(problems("validation", 9, 0))]
    rows[2] |= {"prompt": []}
    rows[4] |= {"reward_model": {"style": "rule", "ground_truth": " "}}
    rows[5] |= {"reward_model": {"style": "rule", "ground_truth": None}}
    text = refused(tmp_path, rows)
    assert "not a list of messages with role and content in row 2" in text
    assert "ground_truth is not a text that holds something in rows 4, 5" in text


def test_a_prompt_that_is_a_text_is_refused(tmp_path: Path) -> None:
    rows = [row(problem, n) | {"prompt": "1+1"} for n, problem in enumerate(problems("validation", 7, 0))]
    assert "in rows 0, 1, 2, 3, 4 and 2 more" in refused(tmp_path, rows)


def test_repeated_problems_are_refused(tmp_path: Path) -> None:
    one, two = (row(problem, n) for n, problem in enumerate(problems("validation", 2, 0)))
    text = refused(tmp_path, [one, two, one | {"extra_info": {"index": 7, "split": "validation"}}])
    assert "3 rows hold 2 different problems (rows 0, 2 are repeated)" in text
    other = one | {"reward_model": {"style": "rule", "ground_truth": "999"}}
    found = read(BenchmarkFile("bench", made.table(tmp_path / "good.parquet", [one, two, other])))
    assert [problem.index for problem in found.problems] == [0, 1, 2]


# The folder.


def test_pending_is_what_no_part_holds(tmp_path: Path, model: Path) -> None:
    store = claim(request(tmp_path, model))
    assert [(p.index, n) for p, n in store.pending()] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    with PartWriter(store, 2) as writer:
        for index, sample in ((2, 1), (0, 0), (1, 1)):
            writer.add(generation(index, sample))
        assert store.done() == 2  # the third waits for company
    assert store.done() == 3
    assert [(p.index, n) for p, n in store.pending()] == [(0, 1), (1, 0), (2, 0)]
    assert not store.complete()
    with PartWriter(store, 100) as writer:
        writer.add(generation(2, 1, "a second one"))
        for index, sample in ((0, 1), (1, 0), (2, 0)):
            writer.add(generation(index, sample))
    assert store.complete()
    assert not store.parts.exists()
    rows = store.generations()
    assert [(one.index, one.sample) for one in rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert {one.response for one in rows} == {"x"}  # what came first stays
    assert (store.done(), store.pending()) == (6, [])


def test_parts_of_two_processes_never_take_each_others_place(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = claim(request(tmp_path, model))
    with monkeypatch.context() as patch:
        # Both saw an empty folder before either wrote.
        patch.setattr(Path, "glob", lambda self, pattern: iter(()))
        for pid in (1, 2):
            patch.setattr(os, "getpid", lambda pid=pid: pid)
            with PartWriter(store, 1) as writer:
                writer.add(generation(0, pid - 1))
    assert store.done() == 2


def test_a_part_is_whole_or_absent(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(tmp_path, model)
    store = claim(asked)

    def die(*_: Any) -> None:
        raise SystemExit("killed before the file got its name")

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", die)
        with pytest.raises(SystemExit), PartWriter(store, 1) as writer:
            writer.add(generation(0, 0))
    assert store.done() == 0
    assert len(store.pending()) == 6
    assert len(list(store.parts.iterdir())) == 1
    claim(asked)
    assert not list(store.parts.iterdir())  # the remains are gone


def test_rows_are_written_after_a_while_even_if_few(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = claim(request(tmp_path, model))
    with PartWriter(store, 100) as writer:
        writer.add(generation(0, 0))
        assert store.done() == 0
        monkeypatch.setattr(store_module, "_FLUSH_S", 0.0)
        writer.add(generation(0, 1))
        assert store.done() == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 3}, "seed was 0 and is now 3"),
        ({"decodings": {"bench": Decoding(0.5, 1.0, 2, 16)}}, "decoding.temperature was 1.0 and is now 0.5"),
        ({"engine": EngineOptions(dtype="float16")}, "engine.dtype was None and is now float16"),
        ({"model": "org/other"}, "model.name was None and is now org/other"),
    ],
)
def test_another_request_is_refused_with_what_differs(
    tmp_path: Path, model: Path, changes: dict[str, Any], words: str
) -> None:
    asked = request(tmp_path, model)
    claim(asked)
    claim(replace(asked, engine=EngineOptions(tensor_parallel=2), workers=3, part_rows=9))  # no other request
    with pytest.raises(RequestError, match=words) as raised:
        claim(replace(asked, **changes))
    assert "holds another evaluation" in str(raised.value)


def test_other_problems_and_other_weights_are_other_requests(tmp_path: Path, model: Path) -> None:
    asked = request(tmp_path, model)
    claim(asked)
    made.benchmark(tmp_path / "bench.parquet", 4)
    before = fingerprint(model)
    with (model / "weights").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert fingerprint(model) != before
    with pytest.raises(RequestError) as raised:
        claim(asked)
    assert "benchmark.sha256 was" in str(raised.value)
    assert "model.fingerprint was" in str(raised.value)
    assert "seed was" not in str(raised.value)


def test_a_second_evaluation_of_a_folder_waits_outside(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RequestError, match="another evaluation is writing"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_seeds_of_samples_do_not_meet() -> None:
    seeds = {sample_seed(s, name, p, n) for s in range(4) for name in ("a", "b") for p in range(40) for n in range(32)}
    # 10,240 of 2^31: by chance 10240^2 / 2 / 2^31 = 0.02 pairs are equal. Sums would leave a few hundred values.
    assert len(seeds) >= 4 * 2 * 40 * 32 - 2
    assert all(0 <= seed < 2**31 for seed in seeds)

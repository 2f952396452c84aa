"""The child process: how it fails, that it ends, and a real vLLM on the CPU that is killed half-way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.evaluation import made
from verl_ext.evaluation import engine
from verl_ext.evaluation.benchmark import read
from verl_ext.evaluation.engine import EngineError, run_engine
from verl_ext.evaluation.request import EngineOptions
from verl_ext.evaluation.run import BenchmarkFile, Decoding, Request, RequestError, evaluate
from verl_ext.evaluation.store import Store
from verl_ext.platform.cpu import cpu_env
from verl_ext.toy.models import build_untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained("tiny_dense", True, tmp_path_factory.mktemp("model"), seed=3)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test in which the engine's part runs in this process leaves its environment alone."""
    for key, value in {**cpu_env(), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(key, value)


def claimed(tmp_path: Path, model: Path, max_tokens: int = 8) -> Store:
    file = BenchmarkFile("bench", made.benchmark(tmp_path / "bench.parquet", 2))
    request = Request(str(model), [file], {"bench": Decoding(max_tokens=max_tokens)}, tmp_path / "out")
    store, benchmark = Store(tmp_path / "out/bench"), read(file)
    store.claim(request.identity("bench", benchmark.sha256), str(model), benchmark)
    return store


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "dies"
    program.write_text("#!/bin/sh\necho the last words\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setattr(engine.sys, "executable", str(program))
    monkeypatch.setattr(engine.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(EngineError, match="status 7") as raised:
        run_engine(str(model), EngineOptions(), [claimed(tmp_path, model)], 1, lambda: None)
    assert "the last words" in str(raised.value)


def test_a_fault_of_the_request_found_by_the_child_is_one(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "refuses"
    found = '{"kind": "RequestError", "message": "m", "faults": ["one", "two"]}'
    program.write_text(f"#!/bin/sh\nprintf '{found}' > \"$(dirname $3)/failed.json\"\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(engine.sys, "executable", str(program))
    with pytest.raises(RequestError) as raised:
        run_engine(str(model), EngineOptions(), [claimed(tmp_path, model)], 1, lambda: None)
    assert raised.value.faults == ["one", "two"]


def test_prompts_take_the_template_and_the_room_they_need(tmp_path: Path, model: Path) -> None:
    store = claimed(tmp_path, model, max_tokens=50)
    wanted = list(engine._wanted(str(model), EngineOptions(), [store]))
    texts = [problem.messages[0]["content"] + "\n" for problem in store.problems()]  # the demo's template
    assert [one.text for one in wanted] == texts
    assert [list(one.ids) for one in wanted] == [list(text.encode()) for text in texts]  # a token is a byte
    assert engine._context(str(model), EngineOptions(), wanted) == max(map(len, texts)) + 50
    assert engine._context(str(model), EngineOptions(max_model_len=20), wanted) == 20
    (tmp_path / "far").mkdir()
    many = list(engine._wanted(str(model), EngineOptions(), [claimed(tmp_path / "far", model, max_tokens=9999)]))
    assert engine._context(str(model), EngineOptions(), many) == 512  # the model's positions
    with pytest.raises(RequestError, match="2 prompts leave no room for a response in 4 tokens; the longest has "):
        engine._context(str(model), EngineOptions(max_model_len=4), wanted)


def test_a_tokenizer_without_a_template_is_a_fault(tmp_path: Path) -> None:
    folder = build_untrained("tiny_dense", True, tmp_path / "model", seed=0)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(RequestError, match="has no chat template; put a"):
        list(engine._wanted(str(folder), EngineOptions(), [claimed(tmp_path, folder)]))


@pytest.mark.usefixtures("on_cpu")
def test_a_child_whose_parent_is_gone_ends_by_itself(tmp_path: Path) -> None:
    # The child's own clock: it waits for ever, and only the loss of its parent can end it.
    child = (
        "import os, sys, threading, time; from verl_ext.evaluation import engine\n"
        "threading.Thread(target=engine._end_with, args=(os.getppid(),), daemon=True).start()\n"
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    orphan = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    try:
        orphan.wait(timeout=15)
    finally:
        if orphan.is_running():
            orphan.kill()
    assert not orphan.is_running()


# A real engine.


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "evaluation.engine" in " ".join(one.cmdline())]


def responses(request: Request) -> dict[str, list[tuple[int, int, str]]]:
    stores = [Store(request.out / file.name) for file in request.benchmarks]
    return {store.name: [(row.index, row.sample, row.response) for row in store.generations()] for store in stores}


@pytest.mark.ray
@pytest.mark.usefixtures("on_cpu")
def test_a_run_that_is_killed_half_way_goes_on_and_ends_with_the_same_responses(tmp_path: Path, model: Path) -> None:
    greedy = BenchmarkFile("greedy", made.benchmark(tmp_path / "greedy.parquet", 260))
    sampled = BenchmarkFile("sampled", made.benchmark(tmp_path / "sampled.parquet", 12))
    decodings = {"greedy": Decoding(0.0, 1.0, 1, 160), "sampled": Decoding(1.0, 1.0, 4, 20)}
    wanted: dict[str, Any] = {"benchmarks": [greedy, sampled], "decodings": decodings, "part_rows": 4}
    first, second = (
        Request(str(model), out=tmp_path / name, verifier="exact", workers=1, seed=9, **wanted)
        for name in ("one", "two")
    )
    whole = evaluate(first)
    assert not children()

    def kill(name: str, stage: str, done: int, total: int) -> None:
        if name == "greedy" and 0 < done < total:
            for child in children():
                child.send_signal(signal.SIGKILL)

    with pytest.raises(EngineError, match="status -9"):
        evaluate(second, kill)
    half = responses(second)
    assert 0 < len(half["greedy"]) < 260, {name: len(rows) for name, rows in half.items()}
    assert not (tmp_path / "two/greedy/summary.json").exists()

    told: list[int] = []
    resumed = evaluate(second, lambda name, stage, done, total: told.append(done) if name == "greedy" else None)
    assert told[0] == len(half["greedy"])  # nothing was thrown away
    found, expected = responses(second), responses(first)
    assert found["greedy"] == expected["greedy"]
    assert set(half["greedy"]) <= set(found["greedy"])
    assert set(half["sampled"]) <= set(found["sampled"])
    assert [row[:2] for row in found["sampled"]] == [(p, n) for p in range(12) for n in range(4)]
    assert len({row[2] for row in found["sampled"]}) == 48  # samples are no copies of one another
    assert resumed["greedy"].metrics == whole["greedy"].metrics
    assert resumed["greedy"].engine == whole["greedy"].engine
    assert resumed["greedy"].engine["dtype"] == "float32"
    assert whole["greedy"].truncated == whole["greedy"].finish_reasons["length"]
    started = time.monotonic()
    assert evaluate(second) == resumed
    assert time.monotonic() - started < 5  # no engine

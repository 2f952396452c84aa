"""Evaluate a model on benchmarks, and score kept responses again: what the command and the tables call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from verl_ext.evaluation.benchmark import Benchmark, read
from verl_ext.evaluation.endpoint import run_endpoint
from verl_ext.evaluation.engine import EngineError, run_engine
from verl_ext.evaluation.request import BenchmarkFile, Decoding, Endpoint, EngineOptions, Request, RequestError
from verl_ext.evaluation.scoring import score, verifier_version
from verl_ext.evaluation.store import Store, locked
from verl_ext.evaluation.summary import Summary, summarise
from verl_ext.rewards.answer_text import AnswerFormat, chosen_format

__all__ = [
    "BenchmarkFile",
    "Decoding",
    "Endpoint",
    "EngineOptions",
    "Progress",
    "Request",
    "RequestError",
    "evaluate",
    "folders",
    "rescore",
    "silent",
    "summaries",
]

Progress = Callable[[str, str, int, int], None]
"""Called with benchmark, stage (``"generate"`` or ``"grade"``), responses done, responses in all."""


def silent(benchmark: str, stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def evaluate(request: Request, progress: Progress = silent) -> dict[str, Summary]:
    """Generate, score and sum up; what an earlier start finished is not done again.

    Responses are asked for in a child process (vLLM) or from an endpoint, and written in parts as they come. Call
    it from the main thread: it turns SIGTERM into a clean end.

    Args:
        request: model, benchmarks, decodings, folder, verifier, seed, answer format.
        progress: told how far it is.

    Returns:
        A summary for each benchmark, in the request's order; also written as ``<out>/<benchmark>/summary.json``.

    Raises:
        RequestError: for every fault of request and benchmark files, or if the folder holds another evaluation.
        EngineError, EndpointError: if responses are missing; what came is kept, and a second start goes on.
    """
    benchmarks = _checked(request)
    formats = [_format_of(request, benchmark) for benchmark in benchmarks]
    with locked(request.out):
        stores = [Store(request.out / benchmark.name) for benchmark in benchmarks]
        _claim(request, benchmarks, formats, stores)
        _generate(request, [store for store in stores if not store.complete()], progress)
        return {store.name: _scored(store, request, progress) for store in stores}


def _format_of(request: Request, benchmark: Benchmark) -> AnswerFormat:
    try:
        return chosen_format(request.answer_format, benchmark.answer_format)
    except ValueError as error:
        raise RequestError([f"benchmark {benchmark.name}: {error}"]) from error


def _checked(request: Request) -> list[Benchmark]:
    faults, benchmarks = request.faults(), []
    try:
        verifier_version(request.verifier)
    except ValueError as error:
        faults.append(str(error))
    if request.answer_format is not None and request.verifier.startswith("pkg://"):
        faults.append(f"answer_format {request.answer_format}: {request.verifier} reads responses itself; leave it out")
    for file in request.benchmarks:
        try:
            benchmarks.append(read(file))
            _format_of(request, benchmarks[-1])
        except RequestError as error:
            faults += error.faults
    if faults:
        raise RequestError(faults)
    return benchmarks


def _claim(
    request: Request, benchmarks: Sequence[Benchmark], formats: Sequence[AnswerFormat], stores: Sequence[Store]
) -> None:
    faults = []
    model = request.model.model if isinstance(request.model, Endpoint) else request.model
    for benchmark, answer_format, store in zip(benchmarks, formats, stores, strict=True):
        try:
            store.claim(request.identity(benchmark.name, benchmark.sha256), model, benchmark, answer_format)
        except RequestError as error:
            faults += error.faults
    if faults:
        raise RequestError(faults)


def _generate(request: Request, stores: Sequence[Store], progress: Progress) -> None:
    def tick() -> None:
        for store in stores:
            progress(store.name, "generate", store.done(), totals[store.name])

    totals = {store.name: store.total() for store in stores}
    if not stores:
        return
    tick()
    if isinstance(request.model, Endpoint):
        run_endpoint(request.model, stores, request.part_rows, tick)
    else:
        run_engine(request.model, request.engine, stores, request.part_rows, tick)
    tick()
    absent = [f"{store.name}: {len(store.pending())} responses are missing" for store in stores if not store.complete()]
    if absent:
        raise EngineError("; ".join(absent))


def _scored(store: Store, request: Request, progress: Progress) -> Summary:
    file = store.folder / "summary.json"
    if file.exists() and (store.folder / "scores.parquet").exists():
        summary = Summary.read(file)
        if summary.verifier == verifier_version(request.verifier, store.answer_format):
            return summary
    return _score(store, request.verifier, request.workers, progress, store.folder)


def _score(store: Store, verifier: str, workers: int | None, progress: Progress, target: Path) -> Summary:
    total = store.total()

    def tick(done: int) -> None:
        progress(store.name, "grade", done, total)

    target.mkdir(parents=True, exist_ok=True)
    # A summary says that the scores beside it are whole and the same verifier's: it goes first and comes last.
    (target / "summary.json").unlink(missing_ok=True)
    summary = summarise(store, score(store, verifier, workers, tick, target / "scores.parquet"))
    summary.write(target / "summary.json")
    return summary


def folders(folder: Path) -> list[Store]:
    """The benchmarks in an evaluation's folder, or the one benchmark whose folder it is.

    Raises:
        RequestError: if there is none.
    """
    candidates = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    found = [Store(path) for path in candidates if (path / "request.json").is_file()]
    if not found:
        raise RequestError([f"{folder}: no evaluation is there; `verl-ext eval run --out {folder}` makes one"])
    return found


def rescore(folder: Path, verifier: str, progress: Progress = silent, workers: int | None = None) -> dict[str, Summary]:
    """Score the kept responses with another verifier; the scores that are there stay.

    Args:
        folder: of an evaluation, or of one of its benchmarks.
        verifier: a name that `verl_ext.rewards.verifiers` knows.
        progress: told how far it is.
        workers: grading processes; None for one a core, at most 8.

    Returns:
        A summary for each benchmark, also written to ``<benchmark>/rescored/<verifier>/``.

    Raises:
        RequestError: if there is no such verifier or evaluation, or responses are missing.
    """
    stores = folders(folder)
    faults = [
        f"{store.folder}: {len(store.pending())} of {store.total()} responses are missing; `verl-ext eval run` goes on"
        for store in stores
        if not store.complete()
    ]
    try:
        verifier_version(verifier)
    except ValueError as error:
        faults.append(str(error))
    if faults:
        raise RequestError(faults)
    place = re.sub(r"[^\w.-]+", "_", verifier)
    return {
        store.name: _score(store, verifier, workers, progress, store.folder / "rescored" / place) for store in stores
    }


def summaries(folder: Path) -> list[tuple[Store, list[Summary]]]:
    """For each benchmark in a folder, its summary (if it is finished) and those of other verifiers."""
    return [
        (
            store,
            [
                Summary.read(file)
                for file in [store.folder / "summary.json", *sorted(store.folder.glob("rescored/*/summary.json"))]
                if file.exists()
            ],
        )
        for store in folders(folder)
    ]

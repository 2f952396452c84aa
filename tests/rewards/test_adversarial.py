"""Answers that are meant to hang, blow up or fool the verifier; `benchmarks.adversarial` is the large search."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.adversarial import SOURCES, cases
from benchmarks.hostile import LONGEST, SHAPES
from benchmarks.second_way import Verdict, compare
from verl_ext.rewards.pool import ProcessPool
from verl_ext.rewards.verifiers import _GRADING

LIMIT_S = 5.0
"""The reward function's own limit."""
SECONDS = 4.0
"""What no answer may take, on a machine that does other things too."""
MEGABYTES = 300
START_S = 60.0
TRUTHS = ["\\frac{3}{4}", "2\\sqrt{2}", "(1,2)", "\\{1,-2\\}", "[-2,7]", "x=5", "y=-2x", "8\\%", "5\\text{ cm}",
    "n^2+1", "\\pi/3", "1\\pm\\sqrt{19}", "(-\\infty,2)\\cup(3,\\infty)", "4210_{5}", "(B)", "east", "7"]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPool]:
    """One worker, started."""
    pool = ProcessPool(_GRADING, "task", workers=1)
    assert pool.run("7", "7", timeout_s=START_S).value == "correct"
    yield pool
    pool.close()


def megabytes(pool: ProcessPool) -> float:
    """The largest memory that the living worker ever had."""
    lines = Path(f"/proc/{pool.pids[0]}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("hostile", ["answer", "ground truth"])
def test_a_hostile_shape_is_judged_in_time_and_memory(pool: ProcessPool, name: str, hostile: str) -> None:
    pair = (SHAPES[name].text(), SHAPES[name].truth)
    pool.run("7", "7", timeout_s=START_S)  # starts the worker again if the shape before has ended it
    start = time.perf_counter()
    result = pool.run(*(pair if hostile == "answer" else reversed(pair)), timeout_s=LIMIT_S)
    took = time.perf_counter() - start
    if result.status == "error":
        # The data are at fault, and it is said.
        assert hostile == "ground truth"
        assert "is not an answer" in result.detail
    else:
        assert result.value in ("wrong", "unparsable"), result
    assert took < SECONDS
    assert megabytes(pool) < MEGABYTES


def test_a_hostile_shape_is_not_longer_than_what_is_read() -> None:
    assert {name: len(shape.text()) for name, shape in SHAPES.items() if len(shape.text()) > LONGEST} == {}
    assert len(SHAPES) >= 100


def test_drawn_answers_are_judged(pool: ProcessPool) -> None:
    outcomes: Counter[str] = Counter()
    for case in cases(300, seed=1, truths=TRUTHS):
        if case.source == "hostile":
            continue
        result = pool.run(case.answer, case.truth, timeout_s=LIMIT_S)
        fault_of_truth = result.status == "error" and "is not an answer" in result.detail
        assert result.status == "ok" or fault_of_truth, (case, result)
        outcomes[str(result.value)] += 1
    assert megabytes(pool) < MEGABYTES
    # Neither all wrong nor all right: the search looks on both sides of the line.
    assert outcomes["correct"] > 10
    assert outcomes["wrong"] > 10


def test_the_same_seed_gives_the_same_answers() -> None:
    first, second = (list(cases(500, seed=3, truths=TRUTHS)) for _ in range(2))
    assert first == second
    assert first != list(cases(500, seed=4, truths=TRUTHS))
    shares = Counter(case.source for case in first)
    assert shares["mutation"] >= 0.3 * len(first)
    assert set(shares) == set(SOURCES)
    assert max(len(case.answer) for case in first) <= LONGEST


@pytest.mark.parametrize(
    ("truth", "answer", "verdict"),
    [
        ("\\frac{3}{4}", "\\dfrac{3}{4}", Verdict.SAME_TEXT),
        ("\\frac{3}{4}", "0.75", Verdict.AGREES),
        ("(a+b)^2", "a^2+2ab+b^2", Verdict.AGREES),
        ("\\sin(2x)", "2\\sin(x)\\cos(x)", Verdict.AGREES),
        ("\\frac{3}{4}", "0.76", Verdict.DIFFERS),
        ("x+1", "x+2", Verdict.DIFFERS),
        ("第二象限", "3", Verdict.NOT_READ),
    ],
)
def test_the_second_way(truth: str, answer: str, verdict: Verdict) -> None:
    assert compare(truth, answer) is verdict

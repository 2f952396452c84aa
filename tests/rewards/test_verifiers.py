"""Verifiers by name, many answers in order, hostile answers, and use from a spawned process."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from verl_ext.rewards import verifiers
from verl_ext.rewards.pool import JobResult, ProcessPool
from verl_ext.rewards.verifiers import OUTCOMES, Graded, TruthKind, close_pools, get, grade_many, kind, kinds, readable

LONG_S = 60.0


def box(answer: str) -> str:
    return f"thus \\boxed{{{answer}}}"


def test_exact_knows_characters_only() -> None:
    exact = get("exact")
    assert exact.grade(box("1 /2"), "1/2") == Graded("correct", True)
    assert exact.grade(box("0.5"), "1/2") == Graded("wrong", True)
    assert exact.grade("0.5", "0.5") == Graded("unparsable", False)
    assert exact.version.startswith("exact, verl_ext ")


@pytest.mark.parametrize("name", ["mathverify", "pkg://", "pkg://verl_ext", "pkg://no.such.module:f", "pkg://os:"])
def test_unknown_verifier_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        get(name)


def test_function_of_the_user_in_killable_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_verifier.py").write_text(
        "import time\n"
        "def judge(solution, truth):\n"
        "    if 'sleep' in solution: time.sleep(1000)\n"
        "    if 'raise' in solution: raise KeyError(solution)\n"
        "    if 'odd' in solution: return 'perhaps'\n"
        "    return 'unparsable' if 'none' in solution else solution == truth\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    mine = get("pkg://my_verifier:judge")
    assert [mine.grade(text, "7", LONG_S).outcome for text in ("7", "8", "none")] == ["correct", "wrong", "unparsable"]
    assert mine.grade("sleep", "7", 0.2).outcome == "timeout"
    assert mine.grade("raise", "7", LONG_S).outcome == "error"
    assert "perhaps" in mine.grade("odd", "7", LONG_S).detail
    assert mine.version.startswith("my_verifier:judge sha256:")


@pytest.mark.parametrize(
    ("value", "outcome"), [(True, "correct"), (False, "wrong"), (1, "error"), (0, "error"), (1.0, "error")]
)
def test_a_number_is_no_verdict(value: object, outcome: str) -> None:
    """A score of 0.4 is not right, and 1 not meant as one of (wrong, right)."""
    assert verifiers._graded(JobResult("ok", value), boxed=True).outcome == outcome


def test_many_in_order_read_lazily() -> None:
    taken = []

    def pairs() -> Iterator[tuple[str, str]]:
        for number in range(200):
            taken.append(number)
            yield box(str(number)), str(number - number % 3)

    results = grade_many(get("math_verify"), pairs(), workers=2, timeout_s=LONG_S)
    first = next(results)
    assert len(taken) < 40
    outcomes = [first.outcome, *(graded.outcome for graded in results)]
    assert outcomes == ["wrong" if number % 3 else "correct" for number in range(200)]


def test_fault_of_the_ground_truth_names_it() -> None:
    graded = get("math_verify").grade(box("6"), "{{{", LONG_S)
    assert graded.outcome == "error"
    assert "'{{{'" in graded.detail


def test_box_around_a_ground_truth_with_a_brace_too_many() -> None:
    truth = "10^{100}$,$10^{1 / 100"
    assert get("math_verify").grade(box(truth), truth, LONG_S) == Graded("correct", False)
    assert get("math_verify").grade(box("10^{1/100}, 10^{100}"), truth, LONG_S) == Graded("correct", True)
    assert get("math_verify").grade("\\boxed{10^{100}$,$10^{1 / 100", truth, LONG_S).outcome == "unparsable"


HOSTILE = {
    "a million characters": box("1+" * 500_000 + "1"),
    "two thousand characters": box("1+" * 900 + "1"),
    "long product": box("x" * 1_900),
    "nested powers": box("9^{9^{9^{9}}}"),
    "powers of Python": box("9**9**9**9"),
    "powers of ten": box("10^{10^{10}}"),
    "power in a sum": box("1+2^{10^{12}}x"),
    "factorials of factorials": box("9!!!!!!"),
    "huge binomial": box("\\binom{10^{10}}{10^{9}}"),
    "huge factorial": box("(10^{10})!"),
    "huge exponent": box("1e999999999"),
    "deep fractions": box("\\frac{1}{" * 1_000 + "2" + "}" * 1_000),
    "deep parentheses": box("(" * 4_000 + "1" + ")" * 4_000),
    "deep braces": box("{" * 4_000 + "1" + "}" * 4_000),
    "deep roots": box("sqrt(" * 1_500 + "2" + ")" * 1_500),
    "deep sets": box("\\{" * 2_000 + "1" + "\\}" * 2_000),
    "spaces": box("1" + " " * 1_900 + "2"),
    "commas": box("," * 1_900 + "1"),
    "digits": box("1" * 1_900),
    "repeated text": box("\\text{" * 1_500 + "a" + "}" * 1_500),
    "repeated and": box("1 and " * 300 + "1"),
    "repeated fractions": box("\\frac" * 380 + "1"),
    "plus and minus": box("\\pm 1" * 30),
    "null bytes": box("6\x00\x006"),
    "lone surrogate": box("\ud800\udfff\ud8006"),
    "unclosed boxes": "\\boxed{" * 140_000,
    "closing braces": box("6") + "}" * 500_000 + "\\boxed{",
    "sum without end": box("\\sum_{k=1}^{10^{9}} \\frac{\\sin(k^{2})}{k}"),
    "integral": box("\\int_0^1 \\sin(x^x^x^x) dx"),
    "tall tower of functions": box("\\sin(" * 200 + "1" + ")" * 200),
}
"""Each of them would hold up, break or blow up some verifier; none of them equals 7."""
LIMIT_S = 1.0
OVERHEAD_S = 4.0
"""What a busy machine may add: the kill, and the pipe. A new process is not started before the next answer."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_costs_its_timeout_at_most(name: str) -> None:
    verifier = get("math_verify")
    verifier.grade(box("7"), "7", LONG_S)  # starts the process, whose start is not part of a job
    start = time.perf_counter()
    graded = verifier.grade(HOSTILE[name], "7", LIMIT_S)
    assert time.perf_counter() - start < LIMIT_S + OVERHEAD_S
    assert graded.outcome in set(OUTCOMES) - {"correct"}
    assert verifier.grade(box("7"), "7", LONG_S).outcome == "correct"


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name.startswith(("power", "huge", "factorial", "nested"))]
)
def test_a_value_too_large_to_compute_is_not_computed(name: str) -> None:
    assert get("math_verify").grade(HOSTILE[name], "7", LONG_S / 3).outcome == "wrong"


def test_a_value_too_large_to_compute_equals_itself() -> None:
    verifier = get("math_verify")
    assert verifier.grade(box("10^{10^{10}}2^1"), "10^{10^{10}} \\cdot 2^1", LONG_S).outcome == "correct"
    assert verifier.grade(box("10^{10^{10}}3^1"), "10^{10^{10}} \\cdot 2^1", LONG_S).outcome == "wrong"


KINDS = {
    "mathematics": ["7", "\\frac{1}{2}", "x^2+1", "\\{1\\pm\\sqrt{5},-2\\}", "(0,4]", "(-\\infty,0)\\cup\\{1\\}$.",
        "y=-2x", "7 \\text{ apples}", "4210_{5}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "1:2", "\\emptyset"],
    "text": ["east", "(B)", "E", "\\text{no solution}", "All odd primes", "f(x)=ax, where $a>0$", "n \\mid m"],
    "damaged": ["\\frac{", "t(0,4]", "{1}}", "2^{", "x^", "1+", "\\frac{1}{}", "5\\", "(1,2", "y \\ge \\frac{", "", "?",
        "\\begin{pmatrix}1\\\\2"],
}  # fmt: skip


def test_what_a_ground_truth_is() -> None:
    truths = [(kind, truth) for kind, members in KINDS.items() for truth in members]
    found = kinds([truth for _, truth in truths], workers=1, timeout_s=LONG_S)
    assert [(one.kind, truth) for one, (_, truth) in zip(found, truths, strict=True)] == truths
    assert [readable("7"), readable("east")] == [True, False]


def test_a_ground_truth_that_ends_its_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing.py").write_text("import os\ndef task(*_):\n    os._exit(139)\n")
    pool = ProcessPool(tmp_path / "crashing.py", "task", workers=1)
    monkeypatch.setattr(verifiers, "pool_for", lambda *_: pool)
    assert kind("7") == TruthKind("unreadable", "the worker died with exit status 139")
    pool.close()


def test_verifier_goes_to_a_spawned_process() -> None:
    verifier = get("math_verify")
    assert pickle.loads(pickle.dumps(verifier)) == verifier
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        half = executor.submit(verifier.grade, box("\\frac{1}{2}"), "0.5", LONG_S)
        assert half.result(timeout=LONG_S) == Graded("correct", True)
        assert executor.submit(close_pools).result(timeout=LONG_S) is None


def test_the_calling_process_loads_nothing_heavy() -> None:
    code = "import sys, verl_ext.rewards.math; print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = ["torch", "ray", "verl", "sympy", "math_verify"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

r"""The shapes in which sources write a ground truth, and what the verifier then accepts and refuses."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.sources import json_lines, parquet, thirty, verl_row
from verl_ext.data import answers
from verl_ext.data.faults import DataError, Faults
from verl_ext.data.ground_truths import answer_in
from verl_ext.data.prepare import Options, prepare
from verl_ext.data.problems import Problem
from verl_ext.rewards.verifiers import Graded, TruthKind

LOOSE = Options(accept_unverified=True)
CASES = Path(__file__).parents[3] / "shared" / "cases" / "data"


def worked(n: int) -> str:
    return f"Natalia sold {n} / 2 = <<{n}/2={n // 2}>>{n // 2} clips.\n{n} + 1 = <<{n}+1={n + 1}>>{n + 1}.\n"


@pytest.mark.parametrize(
    ("value", "answer", "shape"),
    [
        ("72", "72", "text"),
        (" x + 1\n", "x + 1", "text"),
        (7, "7", "number"),
        (7.0, "7", "number"),
        (0.5, "0.5", "number"),
        (Decimal("7.00"), "7", "number"),
        (np.int64(7), "7", "number"),
        (["7"], "7", "list"),
        ((7,), "7", "list"),
        ([["7"]], "7", "list"),
        (np.array(["7"]), "7", "list"),
        (["7", "7"], "7", "list"),
        ('["34"]', "34", "json list"),
        ("['34']", "34", "json list"),
        ("[34]", "34", "json list"),
        (r'["\\frac{1}{2}"]', r"\frac{1}{2}", "json list"),
        ({"answer": "34"}, "34", "object"),
        ({"target": 34, "style": "rule"}, "34", "object"),
        ('{"ground_truth": ["34"]}', "34", "object"),
        (f"{worked(71)}#### 72", "72", "####"),
        (f"{worked(71)}####72\n", "72", "####"),
        (f"#### 5\n{worked(1233)}#### 1,234", "1,234", "####"),
        ("#### $\\boxed{72}$", "72", "####"),
        ("<think>Is it 5?</think> <answer> 72 </answer>", "72", "answer tag"),
        (r"Thus \boxed{5}, no: $\boxed{\frac{1}{2}}$, done.", r"\frac{1}{2}", "box"),
        (r"\[\boxed{2018}\]", "2018", "box"),
        ("It is 5.\nThe answer is: 72", "72", "answer line"),
        ("It is 5. The answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$", "answer line"),
        ("It is 5. So the answer is 72.", "72", "answer line"),
        ("Five.\n\n**Final Answer:** 72", "72", "answer line"),
        # An answer of its own is taken as it is.
        ("[1, 2]", "[1, 2]", "text"),
        ("[0, 1)", "[0, 1)", "text"),
        ("{1, 2}", "{1, 2}", "text"),
        ("[x]", "[x]", "text"),
        ("[[1, 2], [3, 4]]", "[[1, 2], [3, 4]]", "text"),
        ("The answer is not unique", "The answer is not unique", "text"),
        (r"\{x : x > 3\}", r"\{x : x > 3\}", "text"),
        # A mark with nothing behind it, and nothing at all.
        ("It is so.\n####", "", "####"),
        ("[null]", "", "json list"),
        (float("nan"), "", "number"),
        (None, "", "text"),
        ([], "", "list"),
    ],
)
def test_shapes(value: Any, answer: str, shape: str) -> None:
    assert answer_in(value) == (answer, shape)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (["1", "2"], "list of several"),
        ('["1", "2"]', "list of several"),
        (True, "neither a text nor a number"),
        (b"1", "neither a text nor a number"),
        ({"answer": 1, "value": 2}, "several of answer"),
        ({"text": 1}, "none of answer"),
    ],
)
def test_what_is_no_answer(value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        answer_in(value)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60) | st.text(alphabet='[]{}"#\\boxed<answer>: 1', max_size=40))
def test_no_text_is_an_accident(text: str) -> None:
    try:
        answer, shape = answer_in(text)
    except ValueError as error:
        assert "the answer is" in str(error)  # noqa: PT017
    else:
        assert shape != "text" or answer == text.strip()


def test_a_deep_list_is_no_accident_either() -> None:
    assert answer_in("[" * 100_000)[1] == "text"


def test_worked_solutions_are_read_counted_and_graded(tmp_path: Path) -> None:
    rows = [{"question": p, "answer": f"{worked(int(a))}#### {a}"} for p, a in thirty()]
    content = prepare("hmmt25", "boxed", tmp_path, parquet(tmp_path / "g.parquet", rows), LOOSE).content
    written = pq.read_table(tmp_path / "hmmt25/boxed.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in written] == [a for _, a in thirty()]
    shapes = content["ground_truths"]
    assert shapes == {"####": {"rows": 30, "example": {"row": 0, "end": rows[0]["answer"][-70:], "answer": "1"}}}
    assert content["answers_checked"]["accepted"] == 30


def test_columns_in_which_answers_stand(tmp_path: Path) -> None:
    boxed = [{"problem": p, "level": "Level 1", "solution": f"It is $\\boxed{{{a}}}$."} for p, a in thirty()]
    meta = [{"query": p, "type": "GSM_Rephrased", "response": f"So.\nThe answer is: {a}"} for p, a in thirty()]
    empty = [{"prompt": p, "answer": None, "answer_number": int(a)} for p, a in thirty()]
    text = [verl_row(p, "") | {"reward_model": json.dumps({"style": "rule", "ground_truth": a})} for p, a in thirty()]
    plain = prepare("hmmt25", "plain", tmp_path / "x", json_lines(tmp_path / "a.jsonl", _plain()), LOOSE).content[
        "content_sha256"
    ]
    for name, rows in {"boxed": boxed, "meta": meta, "empty": empty, "text": text}.items():
        file = json_lines(tmp_path / f"{name}.jsonl", rows)
        assert prepare("hmmt25", "plain", tmp_path / name, file, LOOSE).content["content_sha256"] == plain, name


def _plain() -> list[dict[str, Any]]:
    return [{"problem": p, "answer": a} for p, a in thirty()]


def test_the_given_files_of_json_lists_and_of_congruences(tmp_path: Path) -> None:
    if not CASES.is_dir():
        pytest.skip("../shared/cases/data is not there")
    lists = prepare("hmmt25", "boxed", tmp_path / "a", CASES / "jsonlist.parquet", LOOSE)
    assert [row["reward_model"]["ground_truth"] for row in pq.read_table(lists.parquet).to_pylist()][:2] == ["9", "15"]
    assert lists.content["ground_truths"]["json list"]["rows"] == 4
    pmod = prepare("hmmt25", "boxed", tmp_path / "b", CASES / "pmod.parquet", LOOSE).content
    assert (pmod["rows"], pmod["answers_checked"]["accepted"]) == (4, 4)


def test_many_answers_of_words_are_a_fault_that_shows_three(tmp_path: Path) -> None:
    rows = [{"problem": f"Name the colour of number {n}.", "answer": str(n)} for n in range(100)]
    for n in (5, 6, 7):
        rows[n]["answer"] = f"colour {'abc'[n - 5]}"
    source = json_lines(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=r"3 of 100 answers are text(.|\n)*--text-answers") as caught:
        prepare("hmmt25", "plain", tmp_path, source, LOOSE)
    assert [f"row {n} [" in str(caught.value) for n in (4, 5, 6, 7)] == [False, True, True, True]
    words = Options(accept_unverified=True, text_answers=True)
    assert prepare("hmmt25", "plain", tmp_path, source, words).content["answers_checked"]["text"] == 3
    # Two of a hundred are what is expected, and a set that says so may have any number.
    rows[7]["answer"] = "7"
    prepare("hmmt25", "plain", tmp_path, json_lines(tmp_path / "y.jsonl", rows), LOOSE)
    prepare("omni_math", "plain", tmp_path, source, LOOSE)


def test_a_worked_solution_without_a_mark_is_a_fault_in_any_set(tmp_path: Path) -> None:
    rows = [{"problem": p, "answer": f"{worked(int(a))}#### {a}"} for p, a in thirty()]
    rows[9]["answer"] = worked(7)
    with pytest.raises(DataError, match=r"1 row: the answer is several lines of words.*\n +row 9 "):
        prepare("omni_math", "plain", tmp_path, json_lines(tmp_path / "x.jsonl", rows), LOOSE)


def problems(*found: str) -> list[Problem]:
    return [Problem(f"p{n}", answer, f"k{n}", n, "") for n, answer in enumerate(found)]


def test_a_verifier_that_accepts_anything_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ground truth that equals itself shows nothing: right and wrong have to be told apart."""
    from verl_ext.rewards import verifiers

    asked: list[tuple[str, str]] = []

    def grade_many(_: Any, pairs: list[tuple[str, str]], *__: Any) -> list[Graded]:
        asked.extend(pairs)
        return [Graded("correct" if truth == "any" or truth in given else "wrong", True) for given, truth in pairs]

    monkeypatch.setattr(verifiers, "grade_many", grade_many)
    monkeypatch.setattr(verifiers, "kinds", lambda found, *_: (TruthKind("mathematics") for _ in found))
    faults = Faults()
    answers.check(problems("1", "2", "any", "3"), faults)
    (fault,) = faults.all()
    assert (fault.what, [p.row for p in fault.places]) == ("the verifier accepts other rows' answers for this one", [2])
    assert {given for given, truth in asked if truth == "any"} == {
        f"\\boxed{{{one}}}" for one in ("any", "3", "1", "2", answers.WRONG)
    }


@pytest.mark.parametrize("found", [("1/2", "0.5"), ("7", "7.0", "7.00"), ("(A)", "A"), ("5",)])
def test_equal_values_in_other_spellings_are_no_fault(found: tuple[str, ...]) -> None:
    faults = Faults()
    answers.check(problems(*found), faults, text_answers=True)
    assert [str(fault) for fault in faults.all()] == []


@pytest.mark.parametrize("style", ["boxed", "answer_line", "last_number", "auto"])
def test_responses_are_written_in_the_sets_own_format(style: Any) -> None:
    faults = Faults()
    facts = answers.check(problems("12", "\\frac{1}{2}", "x+1"), faults, answer_format=style)
    assert facts["answer_format"] == style
    # An expression is no number: a set that asks for the last number cannot hold it.
    assert [p.row for fault in faults.all() for p in fault.places] == ([2] if style == "last_number" else [])


def test_an_answer_that_takes_too_long_and_one_that_ends_its_worker_are_faults_of_their_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cruel_judge.py").write_text(
        "import os, time\n"
        "def grade(solution, truth):\n"
        "    if truth == 'slow': time.sleep(60)\n"
        "    if truth == 'deadly': os._exit(3)\n"
        "    return truth in solution\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(answers, "VERIFIER", "pkg://cruel_judge:grade")
    faults = Faults()
    answers.check(problems("1", "slow", "2", "deadly", "3"), faults, timeout_s=1.5, text_answers=True)
    (fault,) = faults.all()
    assert [(place.row, place.seen.partition(":")[2].split(",")[0]) for place in fault.places] == [
        (1, " timeout"),
        (3, " error"),
    ]


def test_an_answer_that_cannot_be_classified_is_a_fault_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_ext.rewards import verifiers

    found = {"2": TruthKind("unreadable", "10 s are over")}
    monkeypatch.setattr(
        verifiers, "kinds", lambda truths, *_: (found.get(truth, TruthKind("mathematics")) for truth in truths)
    )
    faults = Faults()
    answers.check(problems("1", "2"), faults)
    (fault,) = faults.all()
    assert "row 1 [k1] '2': 10 s are over" in str(fault)

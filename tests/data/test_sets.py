"""Sets with a file each: found by themselves, read as their sources have them; sets of one's own; the table of them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.data.sources import json_lines, parquet, thirty, verl_row
from tools.pages import data as docs
from verl_ext.data import config_source, registry, sets
from verl_ext.data.command import app
from verl_ext.data.dataset import Dataset, faults
from verl_ext.data.faults import DataError
from verl_ext.data.prepare import Options, prepare
from verl_ext.data.registry import SpecError, broken, dataset, datasets, load
from verl_ext.data.sets import gpqa_diamond, math_l3to5
from verl_ext.data.sources import SourceError
from verl_ext.data.text import key

LOOSE = Options(accept_unverified=True)
UNCHECKED = Options(check_answers=False, accept_unverified=True)
OWN = """
from verl_ext.data.dataset import Dataset

TASK, RESULT = "task", "result"

def read(row):
    return {"problem": row[TASK], "answer": row[RESULT]} if row[RESULT] is not None else None

SET = Dataset("sums", "my sums", "train", "plain", read=read)
"""


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def written(file: Path | None) -> list[dict[str, Any]]:
    assert file is not None
    return pq.read_table(file).to_pylist()


def forget() -> None:
    for cached in (registry._found, registry.datasets, registry.broken):
        cached.cache_clear()


def truths(file: Path | None) -> list[str]:
    return [row["reward_model"]["ground_truth"] for row in written(file)]


def test_each_file_is_a_set_and_there_are_no_others() -> None:
    files = {file.stem for file in Path(*sets.__path__).glob("*.py")} - {"__init__"}
    assert files <= datasets().keys()
    assert {"gsm8k", "math", "simplerl_8k", "gpqa_diamond", "omni_math", "hmmt25", "hmmt26"} <= files


def test_a_file_is_all_that_a_set_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put beside the others it is listed, prepared, a choice of ``data=`` and in the table of the documentation."""
    (tmp_path / "zzz_sums.py").write_text(OWN.replace('"sums"', '"zzz_sums"'))
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    forget()
    try:
        assert dataset("zzz_sums").title == "my sums"
        assert "zzz_sums" in config_source.choices()
        assert "zzz_sums" in invoke("list", "--out", tmp_path)[1]
        monkeypatch.setattr(sets, "__path__", [str(tmp_path)])
        assert "| `zzz_sums` |" in docs.table()
    finally:
        forget()


def test_a_page_without_a_place_for_the_table_is_told() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        docs.renewed("a page")


# GSM8K and MATH: two splits.


def of_gsm8k(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Ann has {n} pens and buys {n + 3} more. How many?",
            "answer": f"She has {n}+{n + 3}=<<{n}+{n + 3}={2 * n + 3}>>{2 * n + 3} pens.\n#### {2 * n + 3}",
        }
        for n in range(first, first + count)
    ]


def test_gsm8k_has_a_file_to_train_on_and_one_to_evaluate_on(tmp_path: Path) -> None:
    parquet(tmp_path / "main" / "train-00000-of-00001.parquet", of_gsm8k(20))
    parquet(tmp_path / "main" / "test-00000-of-00001.parquet", of_gsm8k(10, 20))
    with pytest.raises(DataError) as caught:
        prepare("gsm8k", None, tmp_path / "out", tmp_path / "main")
    assert [fault.what.partition(";")[0] for fault in caught.value.faults] == [
        "test: 10 rows where 1319 are expected",
        "train: 20 rows where 7473 are expected",
    ]
    done = prepare("gsm8k", None, tmp_path / "out", tmp_path / "main", LOOSE)
    assert (done.parquet, done.train) == tuple(tmp_path / "out/gsm8k" / f"boxed{t}.parquet" for t in ("", ".train"))
    assert truths(done.parquet) == [str(2 * n + 3) for n in range(20, 30)]
    assert truths(done.train) == [str(2 * n + 3) for n in range(20)]
    assert {row["extra_info"]["split"] for row in written(done.train)} == {"train"}
    content = json.loads(done.manifest.read_text())
    assert (content["rows"], content["train"]["rows"]) == (10, 20)
    assert content["train"]["ground_truths"]["####"]["rows"] == 20
    assert set(content["written"]) == {"boxed.parquet", "boxed.train.parquet"}


def test_of_one_local_file_that_split_alone_is_written(tmp_path: Path) -> None:
    for name, made in (("train.parquet", "boxed.train.parquet"), ("mine.parquet", "boxed.parquet")):
        source = parquet(tmp_path / name, of_gsm8k(12))
        status, printed = invoke("prepare", "gsm8k", "--from", source, "--out", tmp_path / made, "--unverified")
        assert status == 0, printed
        assert [file.name for file in (tmp_path / made / "gsm8k").glob("*.parquet")] == [made]
        assert f"{made}\n" in printed
        assert "#### in 12 rows" in printed


def test_verls_own_preprocessed_gsm8k_is_the_same_set(tmp_path: Path) -> None:
    asked = ' Let\'s think step by step and output the final answer after "####".'
    rows = [
        verl_row(row["question"] + asked, row["answer"].rpartition("#### ")[2], index=n, worked=row["answer"])
        for n, row in enumerate(of_gsm8k(12))
    ]
    theirs = prepare("gsm8k", None, tmp_path / "a", parquet(tmp_path / "train.parquet", rows), LOOSE).content
    ours = prepare("gsm8k", None, tmp_path / "b", parquet(tmp_path / "x/train.parquet", of_gsm8k(12)), LOOSE).content
    assert theirs["content_sha256"] == ours["content_sha256"]
    assert theirs["templates_removed"] == {"boxed": 12}


def test_maths_answers_stand_in_the_boxes_of_its_solutions(tmp_path: Path) -> None:
    def row(n: int) -> dict[str, Any]:
        solution = f"Add: $\\boxed{{0}}$? No, $\\boxed{{\\frac{{{n}}}{{7}}}}$."
        return {"problem": f"What is ${n}/7$?", "level": "Level 1", "type": "Algebra", "solution": solution}

    for subject, first in (("algebra", 0), ("geometry", 20)):
        parquet(tmp_path / "m" / subject / "train-0.parquet", [row(n) for n in range(first + 1, first + 8)])
        parquet(tmp_path / "m" / subject / "test-0.parquet", [row(n) for n in range(first + 9, first + 13)])
    done = prepare("math", None, tmp_path, tmp_path / "m", LOOSE)
    assert truths(done.parquet)[0] == "\\frac{9}{7}"
    assert (len(truths(done.parquet)), len(truths(done.train))) == (8, 14)
    assert done.content["answers_checked"]["solutions_accepted"] == 8


# SimpleRL-Zoo: columns of its own, and a draw.


def of_zoo(count: int) -> list[dict[str, Any]]:
    return [
        verl_row(f"<|im_start|>user\n{n} + 1?\nStep by step, within \\boxed{{{{}}}}.<|im_end|>", str(n + 1), index=n)
        | {"question": f"{n} + 1?", "gt_answer": str(n + 1) if n else "", "answer": f"We add.\nIt is {n + 1}."}
        for n in range(count)
    ]


def test_simplerls_problem_and_answer_are_taken_from_their_own_columns(tmp_path: Path) -> None:
    source = parquet(tmp_path / "z.parquet", of_zoo(9))
    with pytest.raises(DataError, match=r"9 rows where 8523 are expected"):
        prepare("math_l3to5", None, tmp_path, source, Options(check_answers=False))
    with pytest.raises(DataError, match=r"1 row: the answer is empty\n +row 0 "):
        prepare("math_l3to5", None, tmp_path, source, UNCHECKED)
    content = prepare("math_l3to5", None, tmp_path, parquet(tmp_path / "y.parquet", of_zoo(9)[1:]), UNCHECKED).content
    assert (content["rows"], content["templates_removed"], content["left_out"]) == (8, {}, 0)


def test_the_draw_is_the_same_in_any_order(tmp_path: Path) -> None:
    small = replace(dataset("simplerl_8k"), drawn=5)
    rows = of_zoo(30)
    one = prepare(small, None, tmp_path / "a", parquet(tmp_path / "a.parquet", rows), UNCHECKED)
    other = prepare(small, None, tmp_path / "b", parquet(tmp_path / "b.parquet", rows[::-1]), UNCHECKED)
    smallest = sorted(key(f"{n} + 1?", str(n + 1)) for n in range(1, 30))[:5]
    for done in (one, other):
        assert sorted(row["extra_info"]["key"] for row in written(done.parquet)) == smallest
        assert (done.content["drawn"], done.content["rows"], done.content["left_out"]) == (5, 5, 1)
    assert truths(one.parquet) == truths(other.parquet)[::-1]
    few = parquet(tmp_path / "f.parquet", rows[:4])
    with pytest.raises(DataError, match="3 problems, of which 5 are to be drawn"):
        prepare(small, None, tmp_path / "c", few, Options(check_answers=False))


# GPQA: choices.


def of_gpqa(folder: Path, count: int = 198) -> Path:
    names = ["Record ID", "Question", gpqa_diamond.RIGHT, *gpqa_diamond.WRONG, "Explanation"]
    with (folder / "gpqa_diamond.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for n in range(count):
            writer.writerow(
                [f"rec{n}", f'A "particle" of spin {n},\nwhat of it? ', f"right {n}", "x, y", f"b {n}", f"c {n}", "e"]
            )
    return folder / "gpqa_diamond.csv"


def test_gpqas_choices_are_shuffled_by_a_rule_and_its_answers_are_letters(tmp_path: Path) -> None:
    done = prepare("gpqa_diamond", None, tmp_path, of_gpqa(tmp_path))
    letters = Counter(truths(done.parquet))
    # 198 / 4 = 49.5 of each, standard deviation 6.1.
    assert set(letters) == set("ABCD")
    assert all(30 <= count <= 70 for count in letters.values())
    for n, row in enumerate(written(done.parquet)):
        info, letter = row["extra_info"], row["reward_model"]["ground_truth"]
        assert f"({letter}) right {n}\n" in f"{info['problem']}\n"
        assert info["problem"].startswith(f'A "particle" of spin {n},\nwhat of it?\n\n{gpqa_diamond.ASKED}\n\n(A) ')
        assert info["source_index"] == f"rec{n}"
    assert done.content["answers_checked"]["text"] == 198
    again = prepare("gpqa_diamond", None, tmp_path / "again", of_gpqa(tmp_path))
    assert again.parquet.read_bytes() == done.parquet.read_bytes()


def test_other_columns_are_shown_and_not_guessed(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "g.jsonl", [{"Question": "q", "Right": "a", "Wrong 1": "b"}])
    with pytest.raises(DataError, match=r"nor a column answer\n.*columns Question, Right, Wrong 1"):
        prepare("gpqa_diamond", None, tmp_path, source, UNCHECKED)


# Sets of one's own.


def of_own(folder: Path) -> Path:
    return json_lines(folder / "own.jsonl", [{"task": p, "result": a} for p, a in [*thirty(), ("?", None)]])


def test_a_set_of_ones_own_is_prepared_and_listed_like_the_others(tmp_path: Path) -> None:
    (tmp_path / "my_set.py").write_text(OWN)
    out = tmp_path / "out"
    status, printed = invoke("prepare", "--spec", tmp_path / "my_set.py", "--from", of_own(tmp_path), "--out", out)
    assert status == 0, printed
    content = json.loads((out / "sums/plain.manifest.json").read_text())
    assert (content["title"], content["rows"], content["left_out"]) == ("my sums", 30, 1)
    assert content["answers_checked"]["accepted"] == 30
    assert str(tmp_path) not in (out / "sums/plain.manifest.json").read_text()
    (out / "foreign").mkdir()
    (out / "foreign/x.manifest.json").write_text("[]")
    assert "sums" in invoke("list", "--out", out)[1]
    (row,) = (row for row in json.loads(invoke("list", "--json", "--out", out)[1]) if row["name"] == "sums")
    assert (row["kind"], row["problems"], row["prepared"]) == ("train", 30, ["plain"])
    status, printed = invoke("prepare", "--spec", tmp_path / "my_set.py", "--out", out)
    assert (status, "sums is on no hub: give a local file or folder with --from" in printed) == (2, True)
    assert invoke("prepare", "--out", out)[0] == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("SET = 1", "SET is int, not verl_ext.data.dataset.Dataset"),
        ("x = 1", "defines no SET"),
        ("a = 1\nb = a.c\n", "line 2, AttributeError"),
        ("SET = (", "SyntaxError"),
        ("import absent_module", "line 1, ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", "line 2, SystemExit"),
        (OWN.replace('"sums"', '"aime24"'), "name 'aime24' is that of another data set"),
        (OWN.replace('"sums"', '"../sums"'), "name '../sums': letters, digits and _"),
        (OWN.replace("read=read", "reed=read"), "line 9, TypeError"),
    ],
)
def test_a_spec_that_is_no_set_is_explained(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "my_set.py").write_text(text)
    status, printed = invoke("prepare", "--spec", tmp_path / "my_set.py", "--from", of_own(tmp_path), "--out", tmp_path)
    assert status == 2
    assert what in printed
    assert "Traceback" not in printed
    with pytest.raises(SpecError):
        load(tmp_path / "my_set.py")


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    status, printed = invoke("prepare", "--spec", tmp_path / "absent.py", "--out", tmp_path)
    assert (status, "FileNotFoundError" in printed) == (2, True)


def test_all_faults_of_a_set_at_once() -> None:
    wrong: Any = Dataset("a b", "t", "training", "bx", read=3, text_answers="no", answer_format="box")  # type: ignore
    told = "\n".join(faults(wrong))
    for word in ("'a b'", "kind 'training': one of train", "template 'bx'", "read is 3", "text_answers", "'box'"):
        assert word in told
    assert len(faults(wrong)) == 6


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            'return {"problem": row["tsk"], "answer": row["result"]}',
            "31 rows: the set's reader ends in KeyError: 'tsk'",
        ),
        ("return 5", "31 rows: the set's reader returns int, neither a row nor None"),
        ("return None", "the set's reader leaves out every row"),
        ('return {"problem": row["task"]}', "no reward_model.ground_truth, nor a column answer"),
    ],
)
def test_a_reader_that_fails_is_a_fault_of_its_rows(body: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "my_set.py").write_text(re.sub("return .*", lambda _: body, OWN))
    source, out = of_own(tmp_path), tmp_path / "out"
    status, printed = invoke("prepare", "--spec", tmp_path / "my_set.py", "--from", source, "--out", out)
    assert (status, what in printed) == (2, True), printed
    assert "columns result, task" in printed or "row" not in body or "columns problem" in printed
    assert not out.exists()


def test_sets_of_other_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_sets.py").write_text(f"{OWN}\nOTHER = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        metadata.EntryPoint(name, value, registry.ENTRY_POINTS)
        for name, value in (
            ("sums", "their_sets:SET"),
            ("other", "their_sets:OTHER"),
            ("renamed", "their_sets:SET"),
            ("gone", "no_such_module:SET"),
        )
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "verl_ext.data_sets" else [])
    forget()
    try:
        assert dataset("sums").title == "my sums"
        assert "sums" in config_source.choices()
        assert "`sums`" not in docs.table()
        assert broken().keys() == {"other", "renamed", "gone"}
        with pytest.raises(ValueError, match=r"gone: ModuleNotFoundError"):
            dataset("gone")
        status, printed = invoke("list", "--out", tmp_path)
        assert status == 0
        assert "SET is int" in printed
        assert "sums" in printed
        assert prepare("sums", None, tmp_path, of_own(tmp_path)).content["rows"] == 30
    finally:
        forget()


def test_a_set_without_a_hub_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on no hub"):
        prepare(Dataset("mine", "t", "train"), None, tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        prepare(Dataset("mine", "t", "train"), None, tmp_path, tmp_path / "absent.jsonl")
    assert math_l3to5.read({"problem": "p", "answer": "1"}) == {"problem": "p", "answer": "1"}
    done = prepare(
        Dataset("mine", "t", "train", answer_format="last_number"),
        None, tmp_path, json_lines(tmp_path / "o.jsonl", [{"problem": p, "answer": a} for p, a in thirty()]),
    )  # fmt: skip
    assert {row["extra_info"]["answer_format"] for row in written(done.parquet)} == {"last_number"}
    assert done.content["answers_checked"]["answer_format"] == "last_number"

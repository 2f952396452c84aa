"""From sources in each schema to the file and its manifest; faults are listed, all at once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.data.sources import DAPO_AFTER, DAPO_BEFORE, json_lines, parquet, real, thirty, verl_row
from verl_ext.data.command import app
from verl_ext.data.dataset import Dataset, faults
from verl_ext.data.faults import DataError, Faults
from verl_ext.data.manifest import to_record
from verl_ext.data.prepare import Options, paths, prepare
from verl_ext.data.problems import Exemption, collect, read_exemptions
from verl_ext.data.registry import datasets
from verl_ext.data.sets.demo_arithmetic import TRAIN, VALIDATION
from verl_ext.data.templates import Baked
from verl_ext.data.text import content_hash, key
from verl_ext.toy.assets import AssetSettings

UNCHECKED = Options(check_answers=False)
LOOSE = Options(check_answers=False, accept_unverified=True)


def faults_of(rows: list[dict[str, Any]], *exemptions: Exemption, baked: tuple[Baked, ...] = ()) -> list[str]:
    faults = Faults()
    collect(rows, faults, exemptions, baked)
    return [str(fault) for fault in faults.all()]


def test_repetition_and_template_are_undone(tmp_path: Path) -> None:
    rows = [verl_row(f"{DAPO_BEFORE}{p}{DAPO_AFTER}", a, index=n) for n, (p, a) in enumerate(thirty())]
    done = prepare("hmmt25", "boxed", tmp_path, parquet(tmp_path / "h.parquet", rows * 3), UNCHECKED)
    written = pq.read_table(done.parquet).to_pylist()
    assert written[2] == {
        "data_source": "verl_ext/hmmt25",
        "prompt": [
            {
                "role": "user",
                "content": "2 * 7 + 1 = ?\nPlease reason step by step, and put your final answer within \\boxed{}.",
            }
        ],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "15"},
        "extra_info": {
            "index": 2,
            "split": "test",
            "key": key("2 * 7 + 1 = ?", "15"),
            "problem": "2 * 7 + 1 = ?",
            "source_index": "2",
        },
    }
    manifest = json.loads(done.manifest.read_text())
    assert manifest == done.content
    assert (done.parquet, done.train) == (tmp_path / "hmmt25" / "boxed.parquet", None)
    expected = {
        "source": "h.parquet",
        "revision": None,
        "source_rows": 90,
        "rows": 30,
        "repetition": {"3": 30},
        "templates_removed": {"dapo_answer": 90},
        "unverified": True,
        "sha256": hashlib.sha256(done.parquet.read_bytes()).hexdigest(),
        "content_sha256": content_hash(thirty()),
    }
    assert {name: manifest[name] for name in expected} == expected
    # A path of this machine has no business in what is shared.
    assert str(tmp_path) not in done.manifest.read_text()
    assert str(tmp_path).encode() not in done.parquet.read_bytes()


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json", "arrow", "folder"])
def test_the_same_rows_in_other_schemas_and_types_give_the_same_file(tmp_path: Path, kind: str) -> None:
    reference = prepare("hmmt25", "plain", tmp_path / "a", _verl(tmp_path), UNCHECKED)
    rows = [{"question": problem, "final_answer": [answer], "id": n} for n, (problem, answer) in enumerate(thirty())]
    if kind == "parquet":
        source = parquet(
            tmp_path / "x.parquet", [{"problem": p, "answer": int(a), "id": n} for n, (p, a) in _numbered()]
        )
    elif kind == "jsonl":
        source = json_lines(tmp_path / "x.jsonl", rows)
    elif kind == "json":
        source = tmp_path / "x.json"
        source.write_text(json.dumps(rows))
    elif kind == "arrow":
        source = _arrow(
            tmp_path / "x.arrow", [{"problem": p, "answer": float(a), "id": n} for n, (p, a) in _numbered()]
        )
    else:
        source = tmp_path / "folder"
        json_lines(source / "data" / "train-0.jsonl", rows[:20])
        json_lines(source / "data" / "train-1.jsonl", rows[20:])
        (source / "dataset_info.json").write_text("{}")
    done = prepare("hmmt25", "plain", tmp_path / "b", source, UNCHECKED)
    assert done.parquet.read_bytes() == reference.parquet.read_bytes()


def _numbered() -> list[tuple[int, tuple[str, Any]]]:
    return list(enumerate(thirty()))


def _verl(folder: Path) -> Path:
    return parquet(folder / "verl.parquet", [verl_row(p, a, index=n) for n, (p, a) in _numbered()])


def _arrow(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa

    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return path


def test_two_preparations_are_the_same_bytes(tmp_path: Path) -> None:
    source = _verl(tmp_path)
    one, two = (prepare("hmmt25", "boxed", tmp_path / name, source, UNCHECKED) for name in "ab")
    assert one.parquet.read_bytes() == two.parquet.read_bytes()
    assert one.manifest.read_bytes() == two.manifest.read_bytes()


def test_all_faults_at_once_with_their_rows_and_nothing_written(tmp_path: Path) -> None:
    rows = [
        {"problem": "a fine problem", "answer": "1"},
        {"problem": "no answer", "answer": " "},
        {"problem": "no answer either", "answer": None},
        {"problem": "  ", "answer": "1"},
        {"text": "other columns", "answer": "1"},
        {"problem": "many", "answer": ["1", "2"]},
        {"problem": "twice", "answer": "1"},
        {"problem": " twice", "answer": "2"},
        {"problem": "a fine\nproblem", "answer": "1"},
        {"problem": "yes", "answer": True},
    ]
    with pytest.raises(DataError) as caught:
        prepare("hmmt25", "boxed", tmp_path / "out", json_lines(tmp_path / "x.jsonl", rows), UNCHECKED)
    found = [(fault.what, [place.row for place in fault.places]) for fault in caught.value.faults]
    expected = [
        ("the answer is empty", [1, 2]),
        ("the problem is empty", [3]),
        ("no column prompt with messages, nor problem, question", [4]),
        ("the answer is a list of several", [5]),
        ("the answer is neither a text nor a number", [9]),
        ("the same problem has different answers", [6, 7]),
        # "a fine problem" and "twice" are all that can be read.
        ("2 different problems where 30 are expected", []),
    ]
    assert [rows for _, rows in found] == [rows for _, rows in expected]
    assert all(what.startswith(start) for (what, _), (start, _) in zip(found, expected, strict=True))
    assert not (tmp_path / "out").exists()
    assert f"row 1 [{key('no answer', '')}] 'no answer'" in str(caught.value)


def test_the_first_twenty_rows_and_the_count() -> None:
    (text,) = faults_of([{"problem": f"p{n}", "answer": ""} for n in range(23)])
    assert text.startswith("23 rows: the answer is empty\n")
    assert "row 19 " in text
    assert "row 20 " not in text
    assert text.endswith("and 3 more")


def test_missing_columns_of_verls_schema() -> None:
    row = verl_row("p", "1")
    del row["reward_model"]
    assert "no reward_model.ground_truth" in faults_of([row])[0]
    row = verl_row("p", "1")
    del row["prompt"]
    assert "no column prompt" in faults_of([row])[0]
    assert faults_of([]) == ["the source has no rows"]
    assert "no known template" in faults_of([verl_row("p", "1", system="Answer in French.")])[0]


def test_a_template_that_nobody_knows_is_a_fault_until_it_is_named() -> None:
    def row(n: int) -> dict[str, Any]:
        return {
            "problem": f"Think very hard about the following: number {n} of a long list of things. Go!",
            "answer": n,
        }

    rows = [row(n) for n in range(10)]
    begin, end = faults_of(rows)
    assert "10 of 10 problems begin with 'Think very hard about the'" in begin
    assert "problems end with" in end
    named = Baked("mine", "Think very hard about the following: ", " of a long list of things. Go!")
    assert faults_of(rows, baked=(named,)) == []
    # A question is no instruction.
    asked = [{**row, "problem": f"On day {n} of the long week, how many eggs are there?"} for n, row in enumerate(rows)]
    assert faults_of(asked) == []
    # Seven alike may be chance.
    assert faults_of(rows[:7]) == []


def test_exemptions_are_named_reported_and_never_silent(tmp_path: Path) -> None:
    rows = [{"problem": p, "answer": a} for p, a in thirty()]
    rows += [{"problem": rows[3]["problem"], "answer": "-1"}] * 2 + [{"problem": "unanswered", "answer": ""}]
    source = json_lines(tmp_path / "x.jsonl", rows)
    assert len(faults_of(rows)) == 2
    wrong, empty = key(rows[3]["problem"], "-1"), key("unanswered", "")
    list_of = [
        {"key": wrong, "action": "exclude", "reason": "not -1"},
        {"key": empty, "action": "exclude", "reason": "no answer"},
        {"key": "0" * 12, "action": "exclude", "reason": "not there"},
    ]
    (tmp_path / "exempt.json").write_text(json.dumps(list_of))
    options = Options(False, True, read_exemptions(tmp_path / "exempt.json"))
    content = prepare("hmmt25", "plain", tmp_path, source, options).content
    assert content["rows"] == 30
    assert content["excluded"] == [
        {"key": wrong, "row": 30, "copies": 2, "reason": "not -1"},
        {"key": empty, "row": 32, "copies": 1, "reason": "no answer"},
    ]
    assert content["exemptions_without_a_row"] == ["0" * 12]
    assert content["repetition"] == {"1": 31, "2": 1}
    (tmp_path / "bad.json").write_text(json.dumps([list_of[0], {"key": "a", "action": "drop", "reason": "x"}, {}]))
    with pytest.raises(ValueError, match="entries 1, 2 need a key"):
        read_exemptions(tmp_path / "bad.json")


def test_the_verifier_decides_what_can_be_read(tmp_path: Path) -> None:
    rows = [{"problem": p, "answer": a} for p, a in thirty()]
    rows[7]["answer"] = "{{{"
    source = json_lines(tmp_path / "x.jsonl", rows)
    seen = []
    with pytest.raises(DataError, match=r"does not accept the answer for itself\n +row 7 \[\w+\] '\{\{\{'") as caught:
        prepare("hmmt25", "plain", tmp_path, source, progress=lambda done, total: seen.append((done, total)))
    assert len(caught.value.faults) == 1
    # Thirty problems, thirty different answers: each is graded once.
    # With itself, as what it is read as, and with another row's answer.
    assert seen[-1] == (90, 90)
    keep = Exemption(key(rows[7]["problem"], "{{{"), "keep", "as the paper has it")
    content = prepare("hmmt25", "plain", tmp_path, source, Options(exemptions=(keep,))).content
    assert content["answers_checked"]["accepted"] == 29
    assert content["answers_checked"]["of"] == 30
    assert content["kept_though_not_verifiable"] == [{"key": keep.key, "reason": "as the paper has it"}]
    unchecked = prepare("hmmt25", "plain", tmp_path, source, UNCHECKED).content
    assert unchecked["answers_checked"] is None


def test_damaged_answers_are_faults_and_words_are_counted(tmp_path: Path) -> None:
    rows = [{"problem": p, "answer": a} for p, a in thirty()]
    for row, answer in zip(rows, ["\\frac{", "t(0,4]", "All odd primes", "(B)"], strict=False):
        row["answer"] = answer
    source = json_lines(tmp_path / "x.jsonl", rows)
    words = Options(text_answers=True)
    with pytest.raises(DataError) as caught:
        prepare("hmmt25", "plain", tmp_path, source, words)
    (fault,) = caught.value.faults
    assert "the answer is damaged" in fault.what
    assert [(place.row, place.seen) for place in fault.places] == [(0, r"'\\frac{'"), (1, "'t(0,4]'")]
    keep = tuple(Exemption(key(row["problem"], row["answer"]), "keep", "as it is") for row in rows[:2])
    content = prepare("hmmt25", "plain", tmp_path, source, replace(words, exemptions=keep)).content
    assert (content["answers_checked"]["accepted"], content["answers_checked"]["text"]) == (30, 2)


def test_numbers_and_contents_that_are_not_those_recorded(tmp_path: Path) -> None:
    rows = [{"problem": p, "answer": a} for p, a in thirty()]
    source = json_lines(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=r"content \w+ is not that of data folder of zz-haooo/STEER"):
        prepare("aime24", "boxed", tmp_path, source, UNCHECKED)
    content = prepare("aime24", "boxed", tmp_path, source, LOOSE).content
    assert (content["unverified"], content["content_known_from"]) == (True, None)
    with pytest.raises(DataError, match="29 different problems where 30 are expected"):
        prepare("hmmt25", "boxed", tmp_path, json_lines(tmp_path / "y.jsonl", rows[1:]), UNCHECKED)
    with pytest.raises(DataError, match="30 rows where 4428 are expected"):
        prepare("omni_math", "boxed", tmp_path, source, UNCHECKED)
    record = to_record(datasets()["hmmt25"], prepare("hmmt25", "boxed", tmp_path, source, UNCHECKED).content)
    assert record is not None
    assert f'Known("x.jsonl", "{content_hash(thirty())}")' in record


def test_names_templates_and_sources_that_do_not_exist(tmp_path: Path) -> None:
    for arguments, words in (
        (("gsm9k", "boxed"), "no data set 'gsm9k'; did you mean 'gsm8k'"),
        (("aime24", "fancy"), "no template 'fancy'"),
        (("demo_arithmetic", "boxed"), "demo and plain only"),
    ):
        with pytest.raises(ValueError, match=words):
            prepare(*arguments, tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        prepare("aime24", None, tmp_path, tmp_path / "absent.parquet")
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(ValueError, match=r"is none of \.parquet"):
        prepare("aime24", None, tmp_path, tmp_path / "x.txt")


def _cut(folder: Path) -> bytes:
    content = parquet(folder / "whole" / "w.parquet", [verl_row(p, a) for p, a in thirty()]).read_bytes()
    return content[: len(content) // 2] + content[-len(content) // 4 :]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("b.parquet", b"a", "b.parquet cannot be read as parquet"),
        ("b.parquet", _cut, "b.parquet cannot be read as parquet"),
        ("b.parquet", b"", "b.parquet cannot be read as parquet"),
        ("b.arrow", b"a", "b.arrow cannot be read as arrow"),
        ("b.jsonl", b"[1]\n", "b.jsonl is not a list of objects"),
        ("b.jsonl", b'{"problem": "p", "answer": "1"}\n{"problem": ', "b.jsonl cannot be read as jsonl"),
        ("b.json", b'{"problem": "p", "answer": "1"}', "b.json is not a list of objects"),
        ("b.json", b"[[1]]", "b.json is not a list of objects"),
        ("b.json", b"[" * 100_000, "b.json cannot be read as json"),
        ("b.json", b'[{"problem": "\xff"}]', "b.json cannot be read as json"),
        ("b.csv", b'problem,answer\n"\xff",1\n', "b.csv cannot be read as csv"),
        ("b.csv", b"problem,answer\n" + b"1" * 200_000 + b",1\n", "field larger than field limit"),
        ("b.csv", b"", "the source has no rows"),
        ("b.csv", b"problem,answer\np\n", "the answer is empty"),
        ("b.jsonl", b'{"prompt": [{"content": "p"}], "answer": 1}', "the problem is not a text"),
        ("b.jsonl", b'{"prompt": [], "answer": 1}', "the problem is not a text"),
        ("b.jsonl", b'{"problem": null, "answer": 1}', "the problem is not a text"),
    ],
)
def test_damaged_files_are_faults_with_status_2_and_no_traceback(
    name: str, content: Any, what: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content(tmp_path) if callable(content) else content)
    arguments = ["prepare", "hmmt25", "--from", str(tmp_path / name), "--out", str(tmp_path / "out"), "--unverified"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, what in result.output) == (2, True), result.output
    assert not (tmp_path / "out").exists()


def test_the_demos_problems_are_made_and_do_not_meet(tmp_path: Path) -> None:
    done = prepare("demo_arithmetic", None, tmp_path)
    assert done.train is not None
    test, train = (pq.read_table(file).to_pylist() for file in (done.parquet, done.train))
    assert (len(test), len(train)) == (VALIDATION, TRAIN)
    settings = AssetSettings("tiny_dense")
    assert (settings.train_problems, settings.validation_problems) == (TRAIN, VALIDATION)
    known = datasets()["demo_arithmetic"]
    assert (known.train_rows, known.problems) == (4096, 512) == (TRAIN, VALIDATION)
    prompts = [{row["prompt"][0]["content"] for row in rows} for rows in (test, train)]
    assert not prompts[0] & prompts[1]
    assert train[0]["data_source"] == "verl_ext/demo_arithmetic"
    assert (done.content["unverified"], done.content["source"]) == (False, "verl_ext.toy.task")
    assert done.content["written"]["demo.train.parquet"]["rows"] == TRAIN


REAL = {
    "aime24": ("aime24", 30, 960),
    "aime25": ("aime25", 30, 960),
    "amc23": ("amc23", 40, 1280),
    "math500": ("math500", 500, 500),
    "minerva": ("minerva_math", 272, 272),
    "olympiadbench": ("olympiadbench", 675, 675),
    "dapo_math_17k": ("DAPO-Math-17k", 17_188, 17_398),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str, tmp_path: Path) -> None:
    file, problems, rows = REAL[name]
    content = prepare(name, None, tmp_path, real(file)).content
    assert (content["rows"], content["source_rows"], content["unverified"]) == (problems, rows, False)
    # Each different answer is graded against itself, a second for the largest file.
    checked = content["answers_checked"]
    assert (checked["accepted"], checked["of"], checked["solutions_accepted"]) == (problems, problems, None)
    assert not content["exemptions_without_a_row"]
    text = " ".join(row["extra_info"]["problem"] for row in pq.read_table(paths_of(name, tmp_path)).to_pylist())
    for piece in ("Remember to put", "Solve the following math problem step by step", "让我们一步一步地思考"):
        assert piece not in text
    if name == "dapo_math_17k":
        # 14,116 English prompts; 3,282 Chinese ones, 20 of which carry their instruction twice.
        assert content["templates_removed"] == {"dapo": 14_116, "dapo_chinese": 3_302}
        assert len(content["excluded"]) == 5


def paths_of(name: str, out: Path) -> Path:
    return paths(name, datasets()[name].template, out).parquet


def test_the_registry_is_consistent() -> None:
    assert set(datasets()) >= {"math_l3to5", "dapo_math_17k", "aime24", "aime25", "amc23", "amc83", "math500"}
    for name, dataset in datasets().items():
        assert isinstance(dataset, Dataset)
        assert dataset.name == name
        assert faults(dataset) == []
        assert dataset.hub is None or dataset.problems or dataset.rows
        assert dataset.validation is None or datasets()[dataset.validation].kind == "benchmark"
        assert all(len(known.content_sha256) == 64 for known in dataset.known)
        keys = [exemption.key for exemption in dataset.exemptions]
        assert len(set(keys)) == len(keys)
        assert all(len(exemption.reason) > 20 for exemption in dataset.exemptions)

"""Rows of each file format, right answers in each known format, and verl's own loading as the measure of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.utils.import_utils import load_extern_object

from verl_ext.data.templates import TEMPLATES
from verl_ext.reward_probe import _task, row
from verl_ext.reward_probe.row import plain, right_answer
from verl_ext.rewards import verifiers
from verl_ext.toy.task import problems
from verl_ext.toy.task import row as demo_row

HERE = Path(__file__).parent


def asked(prompt: Any, truth: Any = "6") -> tuple[str | None, str]:
    return right_answer({"prompt": prompt, "reward_model": {"ground_truth": truth}}, "prompt")


@pytest.mark.parametrize("name", sorted({*TEMPLATES} - {"plain", "demo", "sft"}))
def test_our_templates_get_an_answer_that_our_grading_accepts(name: str) -> None:
    answer, why = asked(TEMPLATES[name].apply("2*3=?"))
    assert why == ""
    assert verifiers.get("exact").grade(str(answer), "6").outcome == "correct"


def test_the_demos_rows_ask_for_nothing_and_are_known() -> None:
    (problem,) = problems("train", 1, seed=0)
    answer, _ = right_answer(demo_row(problem, 0), "prompt")
    assert answer == f"\\boxed{{{problem.answer}}}"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('2*3? output the final answer after "####".', "#### 6"),
        ([{"role": "user", "content": [{"type": "text", "text": "in \\boxed{}"}]}], "\\boxed{6}"),
        ("of the form Answer: $Answer", "Answer: 6"),
        ("以Answer: \\boxed{<final_answer>}的格式", "Answer: \\boxed{6}"),
        ("within <answer> </answer> tags", "<think>\nThe answer is known.\n</think>\n<answer>\n6\n</answer>"),
    ],
)
def test_formats_of_others(prompt: Any, expected: str) -> None:
    assert asked(prompt) == (expected, "")


def test_a_row_that_asks_for_nothing_may_declare_its_format() -> None:
    row = {"prompt": "2*3?", "reward_model": {"ground_truth": "6"}, "extra_info": {"answer_format": "answer_line"}}
    assert right_answer(row, "prompt") == ("Answer: 6", "")
    assert right_answer({**row, "prompt": "in \\boxed{}"}, "prompt") == ("\\boxed{6}", "")


def test_an_unknown_format_has_no_answer() -> None:
    assert asked("2*3?") == (None, "its prompt asks for no format that is known")
    assert asked("\\boxed{}", ["6"]) == (None, "its ground truth is no plain answer")


@pytest.mark.parametrize(
    ("truth", "text"),
    [("6", "6"), (6, "6"), (0.5, "0.5"), (" x ", "x"), ("\\frac12", "\\frac12"), ("[1, 2)", "[1, 2)")]
    + [(truth, None) for truth in (None, True, "", "a\nb", "x" * 201, '{"a": 1}', "[1, 2]", ["6"], {"a": 1})],
)
def test_plain_answers(truth: Any, text: str | None) -> None:
    assert plain(truth) == text


def test_the_first_row_of_every_format(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"data_source": "a", "extra_info": {"index": 1}}, {"data_source": "b", "extra_info": {"index": 2}}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for kind in ("parquet", "jsonl", "json"):
        assert row.first(f"{tmp_path}/rows.{kind}") == rows[0]
    parquet.write_table(
        pa.Table.from_pylist(rows[:0], schema=pa.Table.from_pylist(rows).schema), tmp_path / "0.parquet"
    )
    (tmp_path / "0.jsonl").touch()
    for name, what in (("0.parquet", "no rows"), ("0.jsonl", "no rows"), ("rows.csv", "verl reads")):
        with pytest.raises(ValueError, match=what):
            row.first(f"{tmp_path}/{name}")


@pytest.mark.parametrize("prefix", ["", "file://", "pkg://"])
def test_contract_functions_are_loaded_as_verl_loads_them(prefix: str) -> None:
    path = "pkg://verl_ext/rewards/math" if prefix == "pkg://" else f"{prefix}{HERE}/rewards.py"
    name = "compute_score" if prefix == "pkg://" else "number"
    ours, verls = _task.load(path, name), load_extern_object(path, name)
    assert (ours.__name__, ours.__code__.co_filename) == (verls.__name__, verls.__code__.co_filename)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("file", "name"), [("rewards.py", "absent"), ("absent.py", "number")])
def test_contract_what_verl_cannot_load_raises_the_same(file: str, name: str) -> None:
    with pytest.raises((AttributeError, FileNotFoundError)) as verls:
        load_extern_object(f"{HERE}/{file}", name)
    with pytest.raises(verls.type):
        _task.load(f"{HERE}/{file}", name)


def test_contract_verls_manager_hands_over_these_arguments() -> None:
    import inspect

    source = inspect.getsource(NaiveRewardManager.run_single)
    for part in (
        "data_source=data_source",
        "solution_str=response_str",
        "ground_truth=ground_truth",
        'result["score"]',
    ):
        assert part in source
    assert "run_in_executor" in source
    assert f'"{_task.ROUTER}"' in source


def test_a_large_file_of_lines_is_read_no_further_than_its_first_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('\n{"data_source": "a"}\nnot JSON\n')
    assert row.first(str(file)) == {"data_source": "a"}
    file.write_text('\n [{"data_source": "b"},\n {"data_source": "c"}]')
    assert row.first(str(file)) == {"data_source": "b"}

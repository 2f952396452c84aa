"""The loader of recipes: what a right file gives, and every fault of a wrong one at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.recipe_files import recipe
from verl_ext.recipe_files.parse import parse
from verl_ext.recipe_files.recipe import RecipeError, Row, all_tables, find_row, load_table, recipes_dir
from verl_ext.recipe_files.schema import Checkpoint, Decoding, literal

HEAD = """
title: A table
source: "arXiv 1234.56789, table 1"
template: boxed
decodings:
  greedy: {temperature: 0.0, top_p: 1.0, samples: 1, max_tokens: 3000}
  drawn: {temperature: 0.6, top_p: 0.95, samples: 32, max_tokens: 8192, top_k: 20}
columns:
  - {name: AIME24, benchmark: aime24, metric: avg@32, decoding: drawn}
  - {name: MATH, benchmark: math500, metric: avg@1, decoding: greedy}
  - {name: Avg, mean_of: [AIME24, MATH]}
defaults:
  choices: {experiment: sspo, data: math_l3to5, cluster: 1x8, backend: fsdp}
  overrides: {a.b: 1, c: 1e-6}
  seeds: [1, 2]
  checkpoint: {rule: best, every: 10}
rows:
"""
ROW = """
  - name: ours
    label: Ours
    choices: {algo: sspo, model: qwen2_5_math_1_5b, backend: cpu}
    overrides: {a.b: 2, +d: x}
    published: {AIME24: 23.33, MATH: null, Avg: 5}
"""
OTHER = """
  - name: base
    label: Base
    kind: evaluate
    panel: "1.5B"
    choices: {model: qwen2_5_math_1_5b}
    published: {AIME24: 1, MATH: 2, Avg: 1.5}
"""
DERIVED = """
  - name: d
    label: D
    kind: derived
    derived: {{{}}}
    published: {{AIME24: 1, MATH: 2, Avg: 1.5}}
"""


def faults(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse(text, "p", "t")
    return caught.value.faults


def test_a_row_is_merged_over_the_defaults_key_by_key() -> None:
    row = parse(HEAD + ROW, "p", "t").rows[0]
    assert row.reference == "p/t/ours"
    assert row.choices == {
        "experiment": "sspo", "data": "math_l3to5", "cluster": "1x8", "backend": "cpu", "algo": "sspo",
        "model": "qwen2_5_math_1_5b",
    }  # fmt: skip
    assert row.overrides == {"a.b": 2, "c": 1e-6, "+d": "x"}
    assert (row.seeds, row.checkpoint) == ((1, 2), Checkpoint("best", 10))
    assert row.published == {"AIME24": 23.33, "MATH": None, "Avg": 5}
    assert (row.kind, row.template, row.panel) == ("train", "boxed", None)


def test_choices_come_first_and_the_experiment_last_of_them() -> None:
    row = parse(HEAD + ROW, "p", "t").rows[0]
    assert row.hydra_overrides() == [
        "backend=cpu", "cluster=1x8", "model=qwen2_5_math_1_5b", "data=math_l3to5", "algo=sspo", "experiment=sspo",
        "a.b=2", "c=1e-06", "+d=x",
    ]  # fmt: skip


def test_a_row_that_is_only_evaluated_takes_over_no_training() -> None:
    row = parse(HEAD + OTHER, "p", "t").rows[0]
    assert (row.choices, row.overrides, row.seeds) == ({"model": "qwen2_5_math_1_5b"}, {}, (1, 2))
    assert row.checkpoint == Checkpoint("last", None)


def test_the_answer_format_of_a_table_is_a_box_unless_it_says_so() -> None:
    assert parse(HEAD + ROW, "p", "t").answer_format == "boxed"
    assert parse(HEAD.replace("template:", "answer_format: answer_line\ntemplate:") + ROW, "p", "t").answer_format == (
        "answer_line"
    )


def test_columns_and_decodings() -> None:
    table = parse(HEAD + ROW, "p", "t")
    assert table.decodings["drawn"] == Decoding("drawn", 0.6, 0.95, 32, 8192, 20)
    assert table.column("AIME24").metric == "avg@32"
    assert table.column("Avg").mean_of == ("AIME24", "MATH")
    assert table.column("Avg").shares == (0.5, 0.5)
    weighted = parse((HEAD + ROW).replace("[AIME24, MATH]", "[AIME24, MATH], weights: [3, 1]"), "p", "t")
    assert weighted.column("Avg").weights == (3, 1)
    assert weighted.column("Avg").shares == (0.75, 0.25)


FAULTY = [
    (HEAD + ROW.replace("published:", "publish:"), ["published must be given", "publish not known"]),
    (HEAD + ROW.replace("MATH: null, ", ""), ["p/t/ours: published lacks MATH"]),
    (HEAD + ROW.replace("MATH: null", "MATH: '-'"), ["published MATH must be a number or null"]),
    (HEAD + ROW.replace("Avg: 5", "Avg: 5, X: 1"), ["published has 'X', which is no column"]),
    (HEAD.replace("template:", "answer_format: auto\ntemplate:") + ROW, ["p/t: answer_format auto takes whatever"]),
    (HEAD.replace("template:", "answer_format: box\ntemplate:") + ROW, ["answer_format 'box' is not one of"]),
    (HEAD + ROW.replace("+d: x", "+r.reward_kwargs.answer_format: auto"), ["p/t/ours: answer_format auto takes"]),
    (HEAD + ROW.replace("+d: x", "+r.reward_kwargs: {answer_format: auto}"), ["p/t/ours: answer_format auto takes"]),
    (HEAD + ROW + ROW, ["rows with the same name: ours"]),
    (HEAD + ROW.replace("name: ours", "name: Ours"), ["must be snake_case"]),
    (HEAD + ROW.replace("algo: sspo, ", ""), ["choices must have algo"]),
    (HEAD + ROW.replace("algo: sspo", "algo: sspo, loss: x"), ["choices has no group loss"]),
    (HEAD + ROW + "    kind: trained\n", ["kind 'trained' is not one of"]),
    (HEAD + ROW + "    seeds: []\n", ["seeds must be different whole numbers"]),
    (HEAD + ROW + "    seeds: [1, 1]\n", ["seeds must be different whole numbers"]),
    (HEAD + ROW + "    checkpoint: {rule: best}\n", ["checkpoint must be"]),
    (HEAD + ROW + "    notes: ['ok', {a: b}]\n", ["notes must be sentences"]),
    (HEAD + ROW + "    same_as: p/t/x\n", ["'same_as' is for rows of kind same_as"]),
    (HEAD + ROW + "    kind: same_as\n", ["must have the key 'same_as'", "overrides, choices would have no effect"]),
    (HEAD + ROW + "    endpoint: {model: m}\n", ["an endpoint cannot be trained"]),
    (HEAD + OTHER + "    endpoint: {model: m}\n", ["either choices.model or an endpoint"]),
    (HEAD + OTHER + "    overrides: {a: 1}\n", ["overrides would have no effect"]),
    (HEAD + OTHER.replace("model: q", "algo: grpo, model: q"), ["choices of algo would have no effect"]),
    (HEAD.replace("[AIME24, MATH]", "[AIME24, AMC]") + ROW, ["mean_of AMC, not a measured column"]),
    (HEAD.replace("[AIME24, MATH]", "[]") + ROW, ["column Avg: mean_of names no column"]),
    (HEAD.replace("[AIME24, MATH]", "[AIME24, MATH], weights: [1]") + ROW, ["2 columns, weights has 1 numbers"]),
    (HEAD.replace("[AIME24, MATH]", "[AIME24, MATH], weights: [1, 0]") + ROW, ["weights must be numbers above 0"]),
    (HEAD.replace("[AIME24, MATH]", "[AIME24, MATH], weights: [1, true]") + ROW, ["weights must be numbers above 0"]),
    (HEAD.replace("[AIME24, MATH]", "[AIME24, MATH], weights: [1, .inf]") + ROW, ["weights must be numbers above 0"]),
    (HEAD.replace("[AIME24, MATH]", "[AIME24, MATH], weights: 2") + ROW, ["weights must be a list"]),
    (HEAD.replace("metric: avg@32", "weights: [1], metric: avg@32") + ROW, ["weights not known"]),
    (HEAD.replace("metric: avg@32", "metric: mean@32") + ROW, ["metric 'mean@32' is not avg@N"]),
    (HEAD.replace("metric: avg@32", "metric: pass@64") + ROW, ["pass@64 needs 64 samples, 'drawn' draws 32"]),
    (HEAD.replace("decoding: greedy", "decoding: grdy") + ROW, ["no decoding 'grdy'; there are greedy, drawn"]),
    (HEAD.replace("temperature: 0.6", "temperature: 0.0") + ROW, ["greedy decoding draws the same response"]),
    (HEAD.replace("max_tokens: 3000", "max_tokens: many") + ROW, ["max_tokens must be a whole number"]),
    (HEAD.replace("title: A table", "title: 1") + ROW, ["title must be text, got 1"]),
    (HEAD + ROW.replace("a.b: 2", "a.b: 2, a.b: 3"), ["given twice: a.b"]),
    ("title: [", ["not YAML"]),
    ("just text", ["holds no table"]),
    (HEAD + ROW + DERIVED.format("mean: [no]"),
     ["p/t/d: derived from 'no'"]),
    (HEAD + ROW + DERIVED.format("sum: [ours]"),
     ["derived must be"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FAULTY, ids=[case[1][0][:50] for case in FAULTY])
def test_every_fault_is_named(text: str, expected: list[str]) -> None:
    found = "\n".join(faults(text))
    for fault in expected:
        assert fault in found


def test_all_faults_of_a_file_come_at_once() -> None:
    text = HEAD.replace("metric: avg@32", "metric: x") + ROW.replace("ours", "Ours") + OTHER.replace("AIME24: 1,", "")
    found = faults(text)
    assert [fault.split(":")[0] for fault in found] == ["p/t column AIME24", "p/t/Ours", "p/t/base"]


def test_references_between_tables_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = "  - {{name: s{n}, label: S, kind: same_as, same_as: {of}, published: {{AIME24: 1, MATH: 1, Avg: 1}}}}\n"
    folder = tmp_path / "p" / "tables"
    folder.mkdir(parents=True)
    rows = [same.format(n=n, of=of) for n, of in enumerate(("p/two/ours", "p/two/none", "p/one/s0"))]
    (folder / "one.yaml").write_text(HEAD + "".join(rows))
    (folder / "two.yaml").write_text(HEAD + ROW)
    monkeypatch.setattr(recipe, "recipes_dir", lambda: tmp_path)
    with pytest.raises(RecipeError) as caught:
        all_tables()
    assert caught.value.faults == [
        "p/one/s1: same_as names 'p/two/none', which no table has",
        "p/one/s2: same_as names 'p/one/s0', which has no run of its own; name the run",
    ]


def test_names_that_do_not_exist_are_answered_with_those_that_do() -> None:
    with pytest.raises(RecipeError, match="it has base, grpo, gspo, espo, sspo, tepo, erpo"):
        find_row("demo/table1/ppo")
    with pytest.raises(RecipeError, match=r"there is no table 'demo/table9'; there are .*demo/table1"):
        find_row("demo/table9/espo")
    with pytest.raises(RecipeError, match="write <paper>/<table>/<row>"):
        find_row("demo/table1")


def test_the_demo_table_publishes_nothing() -> None:
    table = load_table("demo", "table1")
    assert [row.name for row in table.rows] == ["base", "grpo", "gspo", "espo", "sspo", "tepo", "erpo"]
    assert {value for row in table.rows for value in row.published.values()} == {None}


def test_reading_needs_neither_torch_nor_verl() -> None:
    code = (
        "import sys; from verl_ext.recipe_files.recipe import all_tables; all_tables(); "
        "print(sorted({'torch', 'verl', 'hydra', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab1.'\\ ,:{}[]=-e\"", max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner)
)


@given(VALUES)
def test_a_literal_reads_back_as_the_value(value: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def same(found: object, wanted: object) -> bool:
        if isinstance(wanted, list):
            return isinstance(found, list) and len(found) == len(wanted) and all(map(same, found, wanted))
        if isinstance(wanted, dict):
            return (
                isinstance(found, dict)
                and found.keys() == wanted.keys()
                and all(map(same, found.values(), wanted.values()))
            )
        return type(found) is type(wanted) and found == wanted

    assert same(OverridesParser.create().parse_override(f"k={literal(value)}").value(), value)


def test_the_folder_is_found() -> None:
    assert (recipes_dir() / "demo" / "tables" / "table1.yaml").is_file()
    assert isinstance(find_row("demo/table1/espo"), Row)

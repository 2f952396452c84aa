"""What the page holds equals what the export holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext import batch_file
from verl_ext.batch_file import BatchFile
from verl_ext.viewer import command, contents, packing, page, scales
from verl_ext.viewer.columns import COLOURINGS, COLUMNS, Colouring
from verl_ext.viewer.finding import ViewError, find

FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--",
    "\u202eevil\u2066",
    "\x00\x07\x1b[31m",
    "\n\n",
    "",
    "é",
    "日本",
    "\ud800",
]


def read(columns: dict[str, Any], budget: int = 10**9) -> contents.Step:
    return contents.read_step(BatchFile(1, 4, columns), {}, budget)


def row_of(manifest: dict[str, Any], blocks: list[str], entry: dict[str, Any]) -> dict[str, Any]:
    """A response as the page reads it, its texts in place of their numbers."""
    types = {column["name"]: column["type"] for column in manifest["columns"]}
    values = packing.columns_of(packing.unpacked(blocks, entry["at"]), entry["columns"], types, entry["tokens"])
    if packing.TEXT in values:
        texts = json.loads(packing.unpacked(blocks, manifest["vocabulary"]))
        values[packing.TEXT] = [texts[number] for number in values[packing.TEXT]]
    return values


def decoded(text: str) -> tuple[dict[str, Any], list[str]]:
    """Manifest and blocks out of a page."""
    found = re.findall(r'<script type="text/plain" (?:id="(\w+)"|class="block")>([A-Za-z0-9+/=]*)</script>', text)
    manifest = next(data for name, data in found if name == "manifest")
    return json.loads(packing.unpacked([manifest], [0, 0, len(manifest)])), [data for name, data in found if not name]


@st.composite
def exports(draw) -> dict[str, Any]:
    """Ragged rows with any columns, any numbers and any texts."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    columns: dict[str, Any] = {"key": [f"k{row}" for row in range(len(lengths))]}
    columns["uid"] = [f"u{draw(st.integers(0, 1))}" for _ in lengths]

    def rows(numbers, kind):
        return [np.array(draw(st.lists(numbers, min_size=n, max_size=n)), dtype=kind) for n in lengths]

    columns["responses"] = rows(st.integers(0, 2**31 - 1), "int64")
    columns["response_mask"] = rows(st.integers(0, 1), "int8")
    floats = [name for name, kind in batch_file.LIST_TYPES.items() if kind == "float32" and name in COLUMNS]
    for name in draw(st.sets(st.sampled_from(floats))):
        columns[name] = rows(FLOAT32, "float32")
    for name in draw(st.sets(st.sampled_from(("segment_ids", "group_ids")))):
        columns[name] = rows(st.integers(-1, draw(st.sampled_from((5, 300, 70_000)))), "int64")
    for name in draw(st.sets(st.sampled_from(("clipped_low", "clipped_high")))):
        columns[name] = rows(st.integers(0, 1), "int8")
    if draw(st.booleans()):
        text = st.sampled_from(HOSTILE) | st.text(max_size=4)
        columns["tokens"] = [draw(st.lists(text, min_size=n, max_size=n)) for n in lengths]
    return columns


@settings(max_examples=50, deadline=None)
@given(exports())
def test_values_are_the_exports_bit_for_bit(columns):
    manifest, blocks = decoded(page.render(*contents.pack("run", [read(columns)])))
    entries = {entry["key"]: entry for prompt in manifest["steps"][0]["prompts"] for entry in prompt["rows"]}
    assert set(entries) == set(columns["key"])
    for number, key in enumerate(columns["key"]):
        found = row_of(manifest, blocks, entries[key])
        expected = {name: columns[name][number] for name in COLUMNS if name in columns}
        assert set(found) - {packing.TEXT} == set(expected)
        for name, values in expected.items():
            if values.dtype == np.float32:  # as bits: NaN equals itself, -0 differs from 0
                assert found[name].view(np.int32).tolist() == values.view(np.int32).tolist(), name
            else:
                assert found[name].tolist() == values.tolist(), name
        assert found.get(packing.TEXT) == (list(columns["tokens"][number]) if "tokens" in columns else None)


def test_hostile_texts_do_not_leave_their_place():
    columns = {
        "key": ["k"],
        "uid": ["</script><b>u"],
        "prompt_text": ["</script><b>p"],
        "responses": [np.arange(len(HOSTILE))],
        "tokens": [HOSTILE],
    }
    text = page.render(*contents.pack("</title><script>alert(2)</script>", [read(columns)]))
    plain = page.render(*contents.pack("", [read({**columns, "tokens": [["a"] * len(HOSTILE)], "uid": ["u"]})]))
    assert "<b>" not in text.split("<script")[-1]
    assert "alert(" not in text.replace("&lt;script&gt;alert(2)&lt;/script&gt;", "")
    assert text.count("<script") == plain.count("<script")
    assert "\u202e" not in text
    manifest, blocks = decoded(text)
    (prompt,) = manifest["steps"][0]["prompts"]
    assert prompt["text"] == "</script><b>p"
    assert row_of(manifest, blocks, prompt["rows"][0])["text"] == HOSTILE


def test_scripts_and_styles_can_stand_in_a_page():
    for name in (*page.SCRIPTS, *page.STYLES):
        assert "</script" not in page.source(name)
        assert "</style" not in page.source(name)
    text = page.render(*contents.pack("run", [read({"key": ["k"], "responses": [np.arange(3)]})]))
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|//cdn|@import|src=", text.replace("default-src", "")), "nothing from outside"


def test_columns_that_an_export_lacks_are_said_with_a_reason():
    manifest, _ = contents.pack(
        "run", [read({"key": ["k"], "responses": [np.arange(3)], "advantages": [np.ones(3, "f4")]})]
    )
    found = {colouring["column"]: colouring for colouring in manifest["colourings"]}
    assert list(found) == ["entropy", "advantages", "ratio", "clipped", "loss_weight", "group_ids", "segment_ids"]
    assert "counts" in found["advantages"]
    for name in ("entropy", "ratio", "clipped", "loss_weight", "group_ids", "segment_ids"):
        assert "counts" not in found[name]
        assert found[name]["missing"].startswith("not in this export: ")
    assert "(espo)" in found["group_ids"]["missing"]
    assert "before its loss ran" in found["clipped"]["missing"]
    (row,) = manifest["steps"][0]["prompts"][0]["rows"]
    assert row["score"] is None
    assert not {"entropy", "clipped_low", "mini_batch"} & set(row)


def test_every_column_of_the_format_is_shown_and_every_colouring_has_its_column():
    assert set(COLUMNS) == set(batch_file.LIST_TYPES) - {"prompts"}
    assert {name for colouring in COLOURINGS for name in scales.needed(colouring)} <= set(COLUMNS)


def test_headings_are_of_the_tokens_trained_on():
    columns = {
        "key": ["a", "b", "pad"],
        "uid": ["u", "u", "u"],
        "is_padding": [False, False, True],
        "responses": [np.arange(4), np.arange(2), np.arange(2)],
        "response_mask": [np.array([1, 1, 0, 1], "int8"), np.array([0, 0], "int8"), np.ones(2, "int8")],
        "entropy": [np.array([1, 2, 9, 3], "f4"), np.array([7, 7], "f4"), np.ones(2, "f4")],
        "clipped_low": [np.array([1, 0, 1, 0], "int8"), np.array([1, 1], "int8"), np.ones(2, "int8")],
        "clipped_high": [np.array([0, 1, 1, 1], "int8"), np.array([1, 1], "int8"), np.ones(2, "int8")],
        "token_level_rewards": [np.array([0.5, 0, 8, 0.25], "f4"), np.array([1, 1], "f4"), np.ones(2, "f4")],
    }
    manifest, _ = contents.pack("run", [read(columns)])
    first, second = manifest["steps"][0]["prompts"][0]["rows"]  # the padding is no response
    # Of tokens 0, 1 and 3: entropy (1 + 2 + 3) / 3, one clipped below, two above, rewards 0.5 + 0.25.
    assert (first["entropy"], first["clipped_low"], first["clipped_high"], first["score"]) == (2.0, 1 / 3, 2 / 3, 0.75)
    assert (second["entropy"], second["score"]) == (None, 0.0)
    clipping = next(entry for entry in manifest["colourings"] if entry["column"] == "clipped")
    assert clipping["counts"] == [1, 0, 2]


def test_scales():
    values = np.arange(101, dtype=np.float32)  # percentiles 1 and 99 are 1 and 99
    up = scales.scale(Colouring("x", "x", "sequential", 0.0), values)
    assert (up["low"], up["high"], up["least"], up["greatest"]) == (0.0, 99.0, 0.0, 100.0)
    assert sum(up["counts"]) == 101
    both = scales.scale(Colouring("x", "x", "diverging", 20.0), values)
    assert (both["low"], both["high"]) == (-59.0, 99.0)  # 99 is 79 away from 20, 1 is only 19 away
    other = scales.scale(Colouring("x", "x", "diverging", 80.0), values)
    assert (other["low"], other["high"]) == (1.0, 159.0)  # now 1 is the further one
    own = scales.scale(Colouring("x", "x", "sequential"), values)
    assert (own["low"], own["high"]) == (1.0, 99.0)
    flat = scales.scale(Colouring("x", "x", "diverging", 1.0), np.ones(5))
    assert (flat["low"], flat["high"]) == (0.0, 2.0)
    # One outlier among 1,000 zeros: the percentiles are no range, so the scale reaches to the outlier.
    rare = scales.scale(Colouring("x", "x", "diverging", 0.0), np.array([0.0] * 999 + [-4.0]))
    assert (rare["low"], rare["high"]) == (-4.0, 4.0)
    nothing = scales.scale(Colouring("x", "x", "sequential", 0.0), np.array([np.nan, np.inf]))
    assert nothing["least"] is None
    assert sum(nothing["counts"]) == 0


def test_blocks_are_cut_and_places_stay_right():
    blocks = packing.Blocks(limit=40)
    chunks = [bytes([number]) * number for number in range(30)]
    places = [blocks.add(chunk).to_list() for chunk in chunks]
    assert len(blocks.texts) > 5
    assert all(len(text) <= 40 for text in blocks.texts)
    assert [packing.unpacked(blocks.texts, place) for place in places] == chunks
    alone = packing.Blocks(limit=1)
    assert [alone.add(chunk).block for chunk in chunks] == list(range(30)), "a chunk beyond the limit has its own block"


def test_integers_take_the_narrowest_type():
    def kind(*numbers: int) -> str:
        return packing.type_of("x", [np.array(numbers)])

    assert [kind(-128, 127), kind(128), kind(-129), kind(32_768), kind(2**31 - 1)] == [
        "int8",
        "int16",
        "int16",
        "int32",
        "int32",
    ]
    with pytest.raises(ValueError, match=r"column x holds 0 \.\. 2147483648"):
        kind(0, 2**31)


def test_a_page_holds_whole_prompts_until_its_tokens_are_used_up():
    columns = {"key": list("abcd"), "uid": ["p", "q", "p", "r"], "responses": [np.arange(3)] * 4}
    taken = {
        budget: [[row.about["key"] for row in rows] for rows in read(columns, budget).rows] for budget in (1, 8, 9, 12)
    }
    assert taken == {1: [["a", "c"]], 8: [["a", "c"]], 9: [["a", "c"], ["b"]], 12: [["a", "c"], ["b"], ["d"]]}
    assert read(columns, 1).left_out == 2


def test_a_response_that_several_updates_saw_has_a_row_for_each():
    columns = {"key": list("babc"), "uid": ["p"] * 4, "responses": [np.arange(1)] * 4, "mini_batch": [3, 0, 1, 2]}
    found = [(row.about["key"], row.about["name"]) for row in read(columns).rows[0]]
    assert found == [("b", "1, update 1"), ("b", "1, update 3"), ("a", "2"), ("c", "3")]


def test_columns_of_other_lengths_are_faults():
    columns = {"key": ["k"], "uid": ["u"], "responses": [np.arange(3)], "ratio": [np.ones(2, "f4")], "tokens": [["a"]]}
    with pytest.raises(ViewError, match="row k: 3 tokens in the response, but ratio has 2, tokens has 1"):
        read(columns)


def written(folder: Path, steps: tuple[int, ...] = (2, 4)) -> Path:
    for step in steps:
        place = folder / "checkpoints/token_export" / f"step-{step:05d}"
        place.mkdir(parents=True)
        for rank in range(2):
            columns = {"key": [f"{step}_{rank}"], "uid": ["u"], "responses": [np.arange(rank + 1)], "score": [0.5]}
            columns["tokens"] = [[f"word {number}" for number in range(rank + 1)]]
            batch_file.write(place / f"part-{rank}.parquet", columns, step, {"run": "my run", "loss": "espo"})
    return folder


def test_a_run_an_export_a_step_and_a_file(tmp_path):
    run = written(tmp_path / "run")
    export = run / "checkpoints/token_export"
    for path, steps in (
        (run, [2, 4]),
        (export, [2, 4]),
        (export / "step-00004", [4]),
        (export / "step-00002/part-1.parquet", [2]),
    ):
        target, found = command.write(path, tmp_path / "page.html", (), 1000)
        assert [step.step for step in found] == steps
        manifest, _ = decoded(target.read_text(encoding="utf-8"))
        assert manifest["title"] == "my run"
        assert manifest["steps"][0]["facts"] == {"loss": "espo"}
    assert command.write(run, None, (4,), 1000)[0] == export / "tokens.html"
    assert "2 steps, 2 prompts, 4 responses, 6 tokens" in "\n".join(
        command.summary(*command.write(run, None, (), 1000))
    )


def test_what_cannot_be_shown_is_said(tmp_path):
    run = written(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ViewError, match="does not exist"):
        find(tmp_path / "nowhere")
    with pytest.raises(ViewError, match="holds no export of tokens"):
        find(tmp_path / "empty")
    written(tmp_path / "other")
    with pytest.raises(ViewError, match="several runs"):
        find(tmp_path)
    with pytest.raises(ViewError) as error:
        command.write(run, None, (3, 5), 1000)
    assert error.value.faults == ["step 3 is not there, only 2, 4", "step 5 is not there, only 2, 4"]
    wrong = tmp_path / "wrong.parquet"
    wrong.write_bytes(b"nothing")
    with pytest.raises(ViewError, match=r"wrong\.parquet"):
        command.write(wrong, None, (), 1000)


def test_the_same_export_gives_the_same_page_in_another_process(tmp_path):
    run = written(tmp_path / "run")
    pages = []
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.html"
        code = (
            "from pathlib import Path; from verl_ext.viewer.command import write; "
            f"write(Path({str(run)!r}), Path({str(target)!r}), (), 99)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": seed})
        pages.append(target.read_bytes())
    assert pages[0] == pages[1]


def test_the_command_tells_where_the_page_is_or_why_there_is_none(tmp_path):
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(command.view)
    done = CliRunner().invoke(app, [str(written(tmp_path / "run")), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0
    assert "page.html" in done.output
    failed = CliRunner().invoke(app, [str(tmp_path / "nowhere")])
    assert failed.exit_code == 2
    assert "does not exist" in failed.output


def test_a_file_of_something_else_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["1 + 1"], "answer": ["2"]}), tmp_path / "problems.parquet")
    with pytest.raises(ViewError) as refused:
        command.write(tmp_path / "problems.parquet", None, (), 10)
    (fault,) = refused.value.faults
    assert fault.count("problems.parquet") == 1
    assert "no batch that a guard or the token export wrote" in fault

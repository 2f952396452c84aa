"""The file that keeps a batch for replay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext import batch_file

FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
LENGTHS = st.lists(st.integers(0, 7), max_size=6)


@st.composite
def batches(draw) -> dict[str, list]:
    """Ragged batches; every column may be there or not, and rows may be empty."""
    lengths = draw(LENGTHS)
    columns: dict[str, list] = {"key": [f"u{row}_0_0" for row in range(len(lengths))]}

    def rows(numbers):
        return [draw(st.lists(numbers, min_size=n, max_size=n)) for n in lengths]

    losses = [name for name, kind in batch_file.LOSS_TYPES.items() if kind == "float32"]
    for name in draw(st.sets(st.sampled_from([*batch_file.FLOATS, *losses]))):
        columns[name] = rows(FLOAT32)
    for name in draw(st.sets(st.sampled_from(batch_file.INTEGERS))):
        columns[name] = rows(st.integers(-(2**63), 2**63 - 1))
    columns[batch_file.MASK] = rows(st.integers(0, 1))
    columns["clipped_low"] = rows(st.integers(0, 1))
    columns["tokens"] = rows(TEXT)
    columns["rank"] = [draw(st.integers(0, 2**40)) for _ in lengths]
    columns["score"] = [draw(FLOAT32) for _ in lengths]
    columns["response_text"] = [draw(TEXT) for _ in lengths]
    columns["is_padding"] = [draw(st.booleans()) for _ in lengths]
    return columns


@settings(max_examples=60, deadline=None)
@given(columns=batches(), step=st.integers(0, 10**6))
def test_what_is_written_is_read_bit_for_bit(tmp_path_factory, columns: dict[str, list], step: int) -> None:
    path = tmp_path_factory.mktemp("batch") / "batch.parquet"
    batch_file.write(path, columns, step)
    found = batch_file.read(path)
    assert (found.version, found.step, len(found)) == (1, step, len(columns["key"]))
    assert list(found.columns) == list(columns)
    for name, rows in columns.items():
        if name not in batch_file.LIST_TYPES:
            np.testing.assert_equal(found.columns[name], rows)  # a NaN is equal to a NaN
            continue
        for given_row, read_row in zip(rows, found.columns[name], strict=True):
            wanted = np.asarray(given_row, dtype=batch_file.LIST_TYPES[name])
            assert read_row.dtype == wanted.dtype
            assert read_row.tobytes() == wanted.tobytes()  # NaN, -0 and infinities included


def test_nan_is_a_number_in_the_file_and_not_a_missing_value(tmp_path: Path) -> None:
    batch_file.write(tmp_path / "batch.parquet", {"key": ["a_0_0"], "advantages": [[1.0, float("nan")]]}, 3)
    column = pq.read_table(tmp_path / "batch.parquet")["advantages"].chunk(0)
    assert column.values.null_count == 0
    assert np.isnan(column.values[1].as_py())


def test_any_reader_of_parquet_sees_the_documented_types_and_the_version(tmp_path: Path) -> None:
    columns = {"key": ["a_0_0"], "prompts": [[1]], "response_mask": [[1]], "entropy": [[0.5]], "is_padding": [False]}
    batch_file.write(tmp_path / "batch.parquet", columns, 7)
    schema = pq.read_schema(tmp_path / "batch.parquet")
    assert [schema.field(name).type for name in columns] == [
        pa.string(),
        pa.large_list(pa.int64()),
        pa.large_list(pa.int8()),
        pa.large_list(pa.float32()),
        pa.bool_(),
    ]
    assert json.loads(schema.metadata[b"verl_ext.batch_file"]) == {"version": 1, "step": 7}


def test_padded_fills_behind_each_row(tmp_path: Path) -> None:
    batch_file.write(tmp_path / "batch.parquet", {"key": ["a", "b"], "group_ids": [[4], [5, 6]]}, 0)
    found = batch_file.read(tmp_path)  # a folder, too
    assert found.padded("group_ids", -1).tolist() == [[4, -1], [5, 6]]
    assert found.padded("group_ids").dtype == np.int64


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"key": ["a"], "advantage": [[1.0]]}, "no column of the format: advantage"),
        ({"advantages": [[1.0]]}, "`key` is missing"),
        ({"key": ["a", "b"], "advantages": [[1.0]]}, "differ in their number of rows"),
    ],
)
def test_what_is_no_batch_is_refused(tmp_path: Path, columns: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        batch_file.write(tmp_path / "batch.parquet", columns, 1)
    assert not list(tmp_path.iterdir())


def test_another_parquet_file_and_a_newer_version_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no batch that a guard or the token export wrote"):
        batch_file.read(tmp_path / "other.parquet")
    newer = pa.table({"key": ["a"]}).replace_schema_metadata({batch_file.METADATA: b'{"version": 2, "step": 1}'})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(ValueError, match="has version 2 of the format, this is verl_ext with version 1"):
        batch_file.read(tmp_path / "newer.parquet")


def test_an_export_has_the_documented_types_and_says_what_made_it(tmp_path: Path) -> None:
    columns = {
        "key": ["a_0_0"],
        "ratio": [[1.5]],
        "clipped_high": [[1]],
        "tokens": [["é"]],
        "mini_batch": [3],
        "score": [0.25],
    }
    about = {"loss": "espo", "hyper_parameters": {"alpha": 0.1}, "vocab_size": 258}
    batch_file.write(tmp_path / "part.parquet", columns, 4, about)
    schema = pq.read_schema(tmp_path / "part.parquet")
    assert [schema.field(name).type for name in columns] == [
        pa.string(),
        pa.large_list(pa.float32()),
        pa.large_list(pa.int8()),
        pa.list_(pa.string()),
        pa.int64(),
        pa.float32(),
    ]
    found = batch_file.read(tmp_path / "part.parquet")
    assert (found.step, found.about) == (4, about)
    assert {name: found.columns[name] for name in ("tokens", "mini_batch", "score")} == {
        "tokens": [["é"]],
        "mini_batch": [3],
        "score": [0.25],
    }
    assert found.padded("ratio").tolist() == [[1.5]]


def test_no_column_of_a_loss_is_fetched_from_verls_batch() -> None:
    """verl's own field `log_probs` is that of a pass before the update, and has the prompt in front."""
    assert not batch_file.TOKEN_TYPES.keys() & batch_file.LOSS_TYPES.keys()
    assert "log_probs" in batch_file.LOSS_TYPES


# --- several parts


def part(folder: Path, rank: int, step: int = 4, **more: list) -> None:
    columns = {"key": [f"u{rank}_0_0"], "rank": [rank], "ratio": [[rank + 0.5]], **more}
    batch_file.write(folder / f"rank-{rank:05d}.parquet", columns, step, {"loss": "espo", "from": rank})


def test_parts_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    part(tmp_path, 10, score=[1.0])
    part(tmp_path, 2, mini_batch=[0])
    (tmp_path / "rank-00003.parquet.part").write_text("being written")
    found = batch_file.read_all(tmp_path)
    assert (len(found), found.step, found.about) == (2, 4, {"loss": "espo", "from": 2})
    assert found.columns["key"] == ["u2_0_0", "u10_0_0"]
    assert found.padded("ratio").tolist() == [[2.5], [10.5]]
    assert set(found.columns) == {"key", "rank", "ratio"}  # the others are of one part only


def test_one_file_is_read_as_its_only_part(tmp_path: Path) -> None:
    part(tmp_path, 1)
    assert batch_file.read_all(tmp_path / "rank-00001.parquet").columns["rank"] == [1]


def test_what_is_not_one_step_is_refused(tmp_path: Path) -> None:
    for step in (4, 8):
        (tmp_path / f"step-{step:05d}").mkdir()
        part(tmp_path / f"step-{step:05d}", 0, step)
    with pytest.raises(ValueError, match=r"one must be named: step-00004, step-00008"):
        batch_file.read_all(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no part of a batch \(\*\.parquet\)$"):
        batch_file.read_all(tmp_path / "empty")
    part(tmp_path / "step-00004", 1, 5)
    with pytest.raises(ValueError, match=r"several steps \(rank-00000.parquet: 4, rank-00001.parquet: 5\)"):
        batch_file.read_all(tmp_path / "step-00004")

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
LENGTHS = st.lists(st.integers(0, 7), max_size=6)


@st.composite
def batches(draw) -> dict[str, list]:
    """Ragged batches; every column may be there or not, and rows may be empty."""
    lengths = draw(LENGTHS)
    columns: dict[str, list] = {"key": [f"u{row}_0_0" for row in range(len(lengths))]}

    def rows(numbers):
        return [draw(st.lists(numbers, min_size=n, max_size=n)) for n in lengths]

    for name in draw(st.sets(st.sampled_from(batch_file.FLOATS))):
        columns[name] = rows(FLOAT32)
    for name in draw(st.sets(st.sampled_from(batch_file.INTEGERS))):
        columns[name] = rows(st.integers(-(2**63), 2**63 - 1))
    columns[batch_file.MASK] = rows(st.integers(0, 1))
    columns["response_text"] = [draw(st.text(st.characters(codec="utf-8"), max_size=5)) for _ in lengths]
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
        if name not in batch_file.TOKEN_TYPES:
            assert found.columns[name] == rows
            continue
        for given_row, read_row in zip(rows, found.columns[name], strict=True):
            wanted = np.asarray(given_row, dtype=batch_file.TOKEN_TYPES[name])
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
    with pytest.raises(ValueError, match="no batch that a guard wrote"):
        batch_file.read(tmp_path / "other.parquet")
    newer = pa.table({"key": ["a"]}).replace_schema_metadata({batch_file.METADATA: b'{"version": 2, "step": 1}'})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(ValueError, match="has version 2 of the format, this is verl_ext with version 1"):
        batch_file.read(tmp_path / "newer.parquet")

"""A batch of responses on disk: one parquet file, one row a response, read by replay and by viewers of tokens.

Format, version 1. Columns are called what verl calls the fields; a field that the run does not have has no column.

* `key` (text, `{uid}_{session}_{index}`), `uid` (text): the row, and the prompt that it answers.
* `is_padding` (bool): a row that verl added to fill the batch up.
* `prompts`, `responses`, `segment_ids`, `group_ids` (list of int64), `response_mask` (list of int8).
* `advantages`, `returns`, `values`, `old_log_probs`, `rollout_log_probs`, `ref_log_prob`, `entropy`,
  `rollout_entropies`, `rm_scores`, `token_level_rewards`, `rollout_is_weights` (list of float32), one number a token of
  the response, NaN and infinities as they were. Log-probabilities and entropies in nats.
* `prompt_text`, `response_text`, `data_source`, `ground_truth` (text).
* `reward_extra_info` (text, JSON): what the reward function returned.

The file's metadata has the key `verl_ext.batch_file`: JSON with `version` and `step`.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
NAME = "batch.parquet"
METADATA = b"verl_ext.batch_file"
INTEGERS = ("prompts", "responses", "segment_ids", "group_ids")
MASK = "response_mask"
FLOATS = (
    "advantages",
    "returns",
    "values",
    "old_log_probs",
    "rollout_log_probs",
    "ref_log_prob",
    "entropy",
    "rollout_entropies",
    "rm_scores",
    "token_level_rewards",
    "rollout_is_weights",
)
TEXTS = ("key", "uid", "prompt_text", "response_text", "data_source", "ground_truth", "reward_extra_info")
PADDING = "is_padding"
# Column -> type of its numbers; every other column is text or bool.
TOKEN_TYPES = {**dict.fromkeys(INTEGERS, "int64"), MASK: "int8", **dict.fromkeys(FLOATS, "float32")}


@dataclass(frozen=True)
class BatchFile:
    """A batch that was read.

    Attributes:
        version: of the format.
        step: the training step.
        columns: column -> one entry a row: an array for columns of tokens, otherwise a string or a bool.
    """

    version: int
    step: int
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.columns["key"])

    def padded(self, name: str, fill: float = 0) -> Any:
        """A column of tokens as an array `[B, T]`, `fill` behind each row."""
        import numpy as np

        rows = self.columns[name]
        array = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype=TOKEN_TYPES[name])
        for row, values in enumerate(rows):
            array[row, : len(values)] = values
        return array


def write(path: Path, columns: Mapping[str, Sequence[Any]], step: int) -> None:
    """Write a batch, in one piece: a reader sees the whole file or none.

    Args:
        path: of the file; its folder exists.
        columns: column -> one entry a row; `key` must be there. Entries of columns of tokens are sequences of numbers.
        step: the training step.

    Raises:
        ValueError: a column that the format does not have, no `key`, or columns that differ in their number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check(columns)
    arrays = {name: _token_column(rows, TOKEN_TYPES[name]) for name, rows in columns.items() if name in TOKEN_TYPES}
    arrays |= {name: pa.array(columns[name], pa.string()) for name in TEXTS if name in columns}
    if PADDING in columns:
        arrays[PADDING] = pa.array(columns[PADDING], pa.bool_())
    about = json.dumps({"version": VERSION, "step": step}).encode()
    table = pa.table({name: arrays[name] for name in columns}).replace_schema_metadata({METADATA: about})
    part = path.with_name(f"{path.name}.part")
    pq.write_table(table, part, compression="zstd")
    os.replace(part, path)


def read(path: Path) -> BatchFile:
    """Read a batch file, or the one in a folder that a guard wrote.

    Raises:
        ValueError: not such a file, or one of a newer version.
    """
    import pyarrow.parquet as pq

    path = path / NAME if path.is_dir() else path
    table = pq.read_table(path)
    about = (table.schema.metadata or {}).get(METADATA)
    if about is None:
        raise ValueError(f"{path} is a parquet file, but no batch that a guard wrote: it lacks {METADATA.decode()}")
    found = json.loads(about)
    if found["version"] > VERSION:
        raise ValueError(
            f"{path} has version {found['version']} of the format, this is verl_ext with version {VERSION}: "
            "read it with a newer verl_ext"
        )
    columns = {
        name: _rows_of(table[name]) if name in TOKEN_TYPES else table[name].to_pylist() for name in table.column_names
    }
    return BatchFile(version=found["version"], step=found["step"], columns=columns)


def _check(columns: Mapping[str, Sequence[Any]]) -> None:
    unknown = sorted(set(columns) - {*TOKEN_TYPES, *TEXTS, PADDING})
    lengths = {name: len(rows) for name, rows in columns.items()}
    faults = [f"no column of the format: {', '.join(unknown)}"] if unknown else []
    faults += [] if "key" in columns else ["the column `key` is missing"]
    faults += [f"columns differ in their number of rows: {lengths}"] if len(set(lengths.values())) > 1 else []
    if faults:
        raise ValueError("this batch cannot be written: " + "; ".join(faults))


def _token_column(rows: Sequence[Any], kind: str) -> Any:
    """Rows of any lengths as one column. Built from a flat array, in which NaN is a number and never becomes null."""
    import numpy as np
    import pyarrow as pa

    arrays = [np.asarray(row, dtype=kind) for row in rows]
    offsets = np.cumsum([0, *(len(row) for row in arrays)]).astype("int64")
    flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype=kind)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat, from_pandas=False))


def _rows_of(column: Any) -> list[Any]:
    """The rows of a column of tokens, as arrays."""
    import numpy as np

    found: list[Any] = []
    for chunk in column.chunks:
        flat, offsets = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        found += [np.array(flat[start:end]) for start, end in itertools.pairwise(offsets)]
    return found

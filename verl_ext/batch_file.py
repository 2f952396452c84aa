"""A batch of responses on disk: one parquet file, one row a response, read by replay and by viewers of tokens.

Format, version 1. Columns are called what verl calls the fields; a field that the run does not have has no column.
Guards keep a batch as it was before the updates; the token export (`verl_ext.run.token_export`) adds what the loss made
of it.

* `key` (text, `{uid}_{session}_{index}`), `uid` (text): the row, and the prompt that it answers.
* `is_padding` (bool): a row that verl added to fill the batch up.
* `prompts`, `responses`, `segment_ids`, `group_ids` (list of int64), `response_mask` (list of int8).
* `advantages`, `returns`, `values`, `old_log_probs`, `rollout_log_probs`, `ref_log_prob`, `entropy`,
  `rollout_entropies`, `rm_scores`, `token_level_rewards`, `rollout_is_weights` (list of float32), one number a token of
  the response, NaN and infinities as they were. Log-probabilities and entropies in nats.
* `prompt_text`, `response_text`, `data_source`, `ground_truth` (text).
* `reward_extra_info` (text, JSON): what the reward function returned.

Columns of the token export, all optional; one number a token of the response unless another shape is given:

* `log_probs`, `current_entropy` (list of float32, nats): of the policy in training when its loss saw the row.
* `ratio`, `lower`, `upper` (list of float32): what the loss compared.
* `clipped_low`, `clipped_high` (list of int8): 1 where the loss clipped the token.
* `loss_weight` (list of float32): minus the gradient of the policy loss with respect to the token's log-probability.
* `tokens` (list of text): each token of the response, decoded.
* `mini_batch` (int64): the update of the step in which the loss saw the row, from 0; `rank` (int64): of the worker.
* `score` (float32): the reward of the row, without penalties.

The file's metadata has the key `verl_ext.batch_file`: JSON with `version` and `step`, and of an export also `loss`,
`hyper_parameters`, `loss_agg_mode`, `run`, `made_with`, `vocab_size` and `normalisers`.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
# Fields of verl's batch that have one number a token -> type of their numbers.
TOKEN_TYPES = {**dict.fromkeys(INTEGERS, "int64"), MASK: "int8", **dict.fromkeys(FLOATS, "float32")}
# The same for what only an update knows. Apart, because verl's batch has a field `log_probs` of another meaning.
LOSS_TYPES = {
    **dict.fromkeys(("log_probs", "current_entropy", "ratio", "lower", "upper", "loss_weight"), "float32"),
    **dict.fromkeys(("clipped_low", "clipped_high"), "int8"),
}
LIST_TYPES = {**TOKEN_TYPES, **LOSS_TYPES}
TOKENS = "tokens"
# One number a row.
ROW_TYPES = {"mini_batch": "int64", "rank": "int64", "score": "float32"}


@dataclass(frozen=True)
class BatchFile:
    """A batch that was read.

    Attributes:
        version: of the format.
        step: the training step.
        columns: column -> one entry a row: an array for columns of tokens, a list of strings for `tokens`, otherwise a
            string, a number or a bool.
        about: what else the metadata says; empty for a batch that a guard wrote.
    """

    version: int
    step: int
    columns: Mapping[str, Sequence[Any]]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["key"])

    def padded(self, name: str, fill: float = 0) -> Any:
        """A column of tokens as an array `[B, T]`, `fill` behind each row."""
        import numpy as np

        rows = self.columns[name]
        array = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype=LIST_TYPES[name])
        for row, values in enumerate(rows):
            array[row, : len(values)] = values
        return array


def write(path: Path, columns: Mapping[str, Sequence[Any]], step: int, about: Mapping[str, Any] | None = None) -> None:
    """Write a batch, in one piece: a reader sees the whole file or none.

    Args:
        path: of the file; its folder exists.
        columns: column -> one entry a row; `key` must be there. Entries of columns of tokens are sequences of numbers.
        step: the training step.
        about: more for the metadata, JSON-able.

    Raises:
        ValueError: a column that the format does not have, no `key`, or columns that differ in their number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check(columns)
    arrays = {name: _column(name, rows) for name, rows in columns.items()}
    metadata = json.dumps({**(about or {}), "version": VERSION, "step": step}).encode()
    table = pa.table(arrays).replace_schema_metadata({METADATA: metadata})
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
        raise ValueError(
            f"{path} is a parquet file, but no batch that a guard or the token export wrote: "
            f"it lacks {METADATA.decode()}"
        )
    found = json.loads(about)
    if found["version"] > VERSION:
        raise ValueError(
            f"{path} has version {found['version']} of the format, this is verl_ext with version {VERSION}: "
            "read it with a newer verl_ext"
        )
    columns = {
        name: _rows_of(table[name]) if name in LIST_TYPES else table[name].to_pylist() for name in table.column_names
    }
    more = {name: value for name, value in found.items() if name not in ("version", "step")}
    return BatchFile(version=found["version"], step=found["step"], columns=columns, about=more)


def read_all(folder: Path) -> BatchFile:
    """Read one step of a token export: the parts that the ranks wrote, joined in the order of their names.

    A column that one of the parts lacks is left out; what the metadata say is the first part's.

    Args:
        folder: of the step, `<token_export>/step-00004`, or one file.

    Raises:
        ValueError: no part, parts of several steps, or what `read` refuses.
    """
    paths = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    if not paths:
        steps = sorted(path.name for path in folder.glob("step-*"))
        more = f"; it has steps, of which one must be named: {', '.join(steps)}" if steps else ""
        raise ValueError(f"{folder} has no part of a batch (*.parquet){more}")
    parts = [read(path) for path in paths]
    if len({part.step for part in parts}) > 1:
        listed = ", ".join(f"{path.name}: {part.step}" for path, part in zip(paths, parts, strict=True))
        raise ValueError(f"{folder} has parts of several steps ({listed}); read them one by one, or sort them out")
    first = parts[0]
    names = [name for name in first.columns if all(name in part.columns for part in parts)]
    columns = {name: [entry for part in parts for entry in part.columns[name]] for name in names}
    return BatchFile(version=max(part.version for part in parts), step=first.step, columns=columns, about=first.about)


def _check(columns: Mapping[str, Sequence[Any]]) -> None:
    unknown = sorted(set(columns) - {*LIST_TYPES, *ROW_TYPES, *TEXTS, TOKENS, PADDING})
    lengths = {name: len(rows) for name, rows in columns.items()}
    faults = [f"no column of the format: {', '.join(unknown)}"] if unknown else []
    faults += [] if "key" in columns else ["the column `key` is missing"]
    faults += [f"columns differ in their number of rows: {lengths}"] if len(set(lengths.values())) > 1 else []
    if faults:
        raise ValueError("this batch cannot be written: " + "; ".join(faults))


def _column(name: str, rows: Sequence[Any]) -> Any:
    """The entries of a column of the format, as Arrow has them."""
    import numpy as np
    import pyarrow as pa

    if name in LIST_TYPES:
        return _token_column(rows, LIST_TYPES[name])
    if name in ROW_TYPES:
        return pa.array(np.asarray(rows, dtype=ROW_TYPES[name]), from_pandas=False)
    return pa.array(rows, {TOKENS: pa.list_(pa.string()), PADDING: pa.bool_()}.get(name, pa.string()))


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

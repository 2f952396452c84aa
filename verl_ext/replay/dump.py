"""A batch file as the tensors that a policy loss is given.

Shapes: B rows, T tokens of the longest response. Floats become float64, so that two losses differ by what they compute
and not by rounding. Where the mask is 0 a float is 0 and an id is -1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verl_ext import batch_file
from verl_ext.replay.faults import ReplayError
from verl_ext.run.token_export.evaluation import learning
from verl_ext.viewer.finding import ViewError, find

MASK = "response_mask"
# Argument of a loss or field of `TokenContext` -> the columns it is read from, the first that is there.
SOURCES = {
    "advantages": ("advantages",),
    "old_log_prob": ("old_log_probs", "rollout_log_probs"),
    "log_prob": ("log_probs",),
    "old_entropy": ("entropy", "rollout_entropies"),
    "entropy": ("current_entropy",),
    "ref_log_prob": ("ref_log_prob",),
    "rollout_is_weights": ("rollout_is_weights",),
}
IDS = ("segment_ids", "group_ids")
REQUIRED = ("advantages", "old_log_prob")
NO_SIGNAL = (
    "no signal: the advantage of every token is 0, as it is where all rewards of a group are equal. No loss learns "
    "from this batch; take one of a step in which some group has different rewards"
)


@dataclass(frozen=True)
class Selection:
    """Which rows of a file are replayed.

    Attributes:
        mini_batch: only those of this mini-batch; all of them if None.
        only_finite: leave out rows with a value that is not finite, instead of refusing the file.
    """

    mini_batch: int | None = None
    only_finite: bool = False


@dataclass(frozen=True)
class Dump:
    """The rows of a file that count.

    Attributes:
        keys: of the rows, [B].
        tensors: names of `SOURCES` and `IDS` that the file has, `response_mask` [B, T] bool and `responses` [B, T]
            long where it has them.
        prompts: token ids before each response, where the file has them.
        on_policy: whether the old log-probs stand for the current ones.
        vocab_size: V, where the file says it.
        about: what the file says of the run it is from: its loss, that one's hyper-parameters; empty for a guard's.
        notes: what a reader of the figures should know.
    """

    keys: Sequence[str]
    tensors: Mapping[str, Tensor]
    prompts: Sequence[np.ndarray] | None
    on_policy: bool
    vocab_size: int | None
    about: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def mask(self) -> Tensor:
        """[B, T] bool."""
        return self.tensors[MASK]

    @property
    def tokens(self) -> int:
        """Valid tokens."""
        return int(self.mask.sum())

    @property
    def signal(self) -> bool:
        """Whether any token has an advantage to learn from."""
        return bool(learning({**self.tensors, MASK: self.mask}).any())

    def with_tensors(self, **tensors: Tensor) -> Dump:
        """Tensors added or replaced."""
        return replace(self, tensors={**self.tensors, **tensors})


def load(path: Path, selection: Selection = Selection()) -> Dump:
    """Read a guard's batch, a file of an export, a folder of either, or a run that exported one step.

    Args:
        path: the file or folder.
        selection: which rows.

    Raises:
        ReplayError: no such file, one that is no batch, or one that lacks what every loss needs; all faults.
    """
    file = _read(path)
    faults = [] if MASK in file.columns else [f"{path} has no column {MASK}"]
    faults += [
        f"{path} has no column {' or '.join(SOURCES[name])}: every loss needs it"
        for name in REQUIRED
        if not any(column in file.columns for column in SOURCES[name])
    ]
    if faults:
        raise ReplayError(faults)
    wanted, notes = _wanted_columns(file)
    rows, skipped = _rows(file, path, selection)
    ids = [name for name in (*IDS, "responses") if name in file.columns]
    faults = _length_faults(file, rows, [*wanted.values(), *ids])
    if faults:
        raise ReplayError(faults)
    rows, found = _finite_rows(file, rows, wanted.values(), selection.only_finite)
    return _dump(file, rows, wanted, (*notes, *skipped, *found))


def _read(path: Path) -> batch_file.BatchFile:
    try:
        places = find(path)
    except ViewError as error:
        raise ReplayError(error.faults) from error
    if len(places) > 1:
        raise ReplayError([f"{path} holds {len(places)} steps, name one: {', '.join(map(str, places.values()))}"])
    try:
        return batch_file.read_all(next(iter(places.values())))
    except (ValueError, OSError) as error:
        raise ReplayError([f"{path} cannot be read as a batch: {error}"]) from error


def _wanted_columns(file: batch_file.BatchFile) -> tuple[dict[str, str], list[str]]:
    """Name -> the column it is read from; what to say about columns that stand for others."""
    found = {
        name: next(column for column in columns if column in file.columns)
        for name, columns in SOURCES.items()
        if any(column in file.columns for column in columns)
    }
    notes = [
        f"the file has no {SOURCES[name][0]}; {column} stands for it"
        for name, column in found.items()
        if column != SOURCES[name][0]
    ]
    return found, notes


def _rows(file: batch_file.BatchFile, path: Path, selection: Selection) -> tuple[list[int], list[str]]:
    """The rows that count, and what was left out."""
    columns = file.columns
    rows = list(range(len(file)))
    if selection.mini_batch is not None:
        known = sorted({int(number) for number in columns.get("mini_batch", ())})
        if selection.mini_batch not in known:
            there = f"it has {', '.join(map(str, known))}" if known else "the file has no column mini_batch"
            raise ReplayError([f"--mini-batch {selection.mini_batch}: {there}"])
        rows = [row for row in rows if columns["mini_batch"][row] == selection.mini_batch]
    padding = columns.get(batch_file.PADDING, [False] * len(file))
    kept = [row for row in rows if not padding[row] and any(columns[MASK][row])]
    if not kept:
        raise ReplayError([f"{path}: none of the {len(rows)} rows has a token in its {MASK}"])
    left = len(rows) - len(kept)
    return kept, [f"{left} rows without a token that counts are left out"] if left else []


def _length_faults(file: batch_file.BatchFile, rows: Sequence[int], names: Sequence[str]) -> list[str]:
    """Columns whose rows do not have one number a token of the response."""
    found = []
    for name in names:
        wrong = [row for row in rows if len(file.columns[name][row]) != len(file.columns[MASK][row])]
        if wrong:
            have, want = len(file.columns[name][wrong[0]]), len(file.columns[MASK][wrong[0]])
            key = file.columns["key"][wrong[0]]
            found.append(f"column {name}: {len(wrong)} rows, first {key}, have {have} values for {want} tokens")
    return found


def _finite_rows(
    file: batch_file.BatchFile, rows: list[int], names: Iterable[str], only_finite: bool
) -> tuple[list[int], list[str]]:
    """Rows without NaN or infinity among the tokens that count; ReplayError where they must all be so."""
    bad: dict[str, list[int]] = {}
    for name in names:
        broken = [
            row
            for row in rows
            if not np.isfinite(file.columns[name][row][np.asarray(file.columns[MASK][row], dtype=bool)]).all()
        ]
        if broken:
            bad[name] = broken
    if not bad:
        return rows, []
    if not only_finite:
        raise ReplayError(
            [
                f"column {name}: {len(broken)} rows, first {file.columns['key'][broken[0]]}, have values that are not "
                "finite; --only-finite leaves such rows out"
                for name, broken in bad.items()
            ]
        )
    dropped = {row for broken in bad.values() for row in broken}
    kept = [row for row in rows if row not in dropped]
    if not kept:
        raise ReplayError([f"no row is finite in all of {', '.join(bad)}"])
    return kept, [f"{len(dropped)} rows with values that are not finite are left out ({', '.join(bad)})"]


def _dump(file: batch_file.BatchFile, rows: Sequence[int], wanted: Mapping[str, str], notes: Sequence[str]) -> Dump:
    def padded(column: str, dtype: type[Any], fill: float) -> Tensor:
        parts: list[np.ndarray] = [np.asarray(file.columns[column][row], dtype=dtype) for row in rows]
        array: np.ndarray = np.full((len(parts), width), fill, dtype=dtype)
        for row, part in enumerate(parts):
            array[row, : len(part)] = part
        return torch.from_numpy(array)

    width = max(len(file.columns[MASK][row]) for row in rows)
    mask = padded(MASK, bool, 0)
    tensors = {name: padded(column, float, 0).masked_fill(~mask, 0.0) for name, column in wanted.items()}
    tensors |= {name: padded(name, int, -1).masked_fill(~mask, -1) for name in IDS if name in file.columns}
    tensors[MASK] = mask
    if "responses" in file.columns:
        tensors["responses"] = padded("responses", int, 0)
    on_policy = "log_prob" not in tensors
    said = list(notes)
    if on_policy:
        tensors["log_prob"] = tensors["old_log_prob"].clone()
        said.append("the file has no log_probs: the old policy stands for the current one, and every ratio is 1")
        if "old_entropy" in tensors:
            tensors.setdefault("entropy", tensors["old_entropy"])
    silent = int((~learning(tensors).any(dim=1)).sum())
    if 0 < silent < len(rows):
        said.append(f"{silent} of {len(rows)} rows have the advantage 0 and no part in any gradient")
    prompts = [file.columns["prompts"][row] for row in rows] if "prompts" in file.columns else None
    keys = [file.columns["key"][row] for row in rows]
    return Dump(keys, tensors, prompts, on_policy, file.about.get("vocab_size"), file.about, tuple(said))

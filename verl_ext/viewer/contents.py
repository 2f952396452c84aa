"""From batches of a run to what the page holds: steps, prompts, responses, and the numbers of their tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from verl_ext import batch_file
from verl_ext.batch_file import BatchFile
from verl_ext.viewer import scales
from verl_ext.viewer.columns import COLUMNS
from verl_ext.viewer.finding import ViewError
from verl_ext.viewer.packing import TEXT, Blocks, as_json, chunk, type_of

MANIFEST_VERSION = 1
TOKENS = "tokens"


@dataclass(frozen=True)
class Row:
    """A response.

    Attributes:
        about: what the manifest says of it.
        values: column -> [T].
        mask: [T] bool, the tokens trained on.
        tokens: texts; None where the export has none.
    """

    about: dict[str, Any]
    values: dict[str, np.ndarray]
    mask: np.ndarray
    tokens: Sequence[str] | None


@dataclass(frozen=True)
class Step:
    """The responses of one training step, prompt by prompt."""

    step: int
    facts: dict[str, str]
    prompts: list[dict[str, Any]]
    rows: list[list[Row]]
    left_out: int


def read_step(batch: BatchFile, facts: Mapping[str, str], budget: int) -> Step:
    """The prompts of a step, in the batch's order, until `budget` tokens are used up; at least one.

    Raises:
        ViewError: columns of tokens that differ in their length, or a batch without responses.
    """
    columns = batch.columns
    names = [name for name in COLUMNS if name in columns]
    if "responses" not in columns:
        there = ", ".join(columns) or "none"
        raise ViewError([f"step {batch.step}: the batch has no column `responses`; its columns: {there}"])
    padding = columns.get(batch_file.PADDING, [False] * len(batch))
    prompts: dict[str, list[int]] = {}
    for number in range(len(batch)):
        if not padding[number]:
            prompts.setdefault(_prompt_of(columns, number), []).append(number)
    taken: list[tuple[str, list[int]]] = []
    used = 0
    for uid, numbers in prompts.items():
        size = sum(len(columns["responses"][number]) for number in numbers)
        if taken and used + size > budget:
            break
        taken.append((uid, numbers))
        used += size
    abouts = [_about_prompt(columns, uid, numbers[0]) for uid, numbers in taken]
    rows = [_responses(columns, names, numbers, batch.step) for _, numbers in taken]
    return Step(batch.step, dict(facts), abouts, rows, len(prompts) - len(taken))


def pack(title: str, steps: Sequence[Step]) -> tuple[dict[str, Any], list[str]]:
    """The manifest and the blocks of chunks.

    Args:
        title: of the page.
        steps: in order.
    """
    rows = [row for step in steps for prompt in step.rows for row in prompt]
    columns = _columns(rows)
    types = {name: type_of(name, values) for name, values in columns.items()}
    texts = sorted({text for row in rows for text in row.tokens or ()})
    number_of = {text: number for number, text in enumerate(texts)}
    if any(row.tokens is not None for row in rows):
        types[TEXT] = type_of(TEXT, [np.array([len(texts)])])
    blocks = Blocks()
    vocabulary = blocks.add(as_json(texts)).to_list()
    described = []
    for step in steps:
        prompts = []
        for about, responses in zip(step.prompts, step.rows, strict=True):
            entries = [row.about | _packed(row, number_of, types, blocks) for row in responses]
            prompts.append(about | {"rows": entries})
        described.append({"step": step.step, "facts": step.facts, "left_out": step.left_out, "prompts": prompts})
    manifest = {
        "version": MANIFEST_VERSION,
        "title": title,
        "columns": [{"name": name, "type": types[name]} | _known(name) for name in types],
        "colourings": scales.describe(columns, [row.mask for row in rows]),
        "vocabulary": vocabulary,
        "steps": described,
    }
    return manifest, blocks.texts


def _known(name: str) -> dict[str, str]:
    return asdict(COLUMNS[name]) if name in COLUMNS else {"label": name, "unit": "", "about": ""}


def _columns(rows: Sequence[Row]) -> dict[str, Sequence[np.ndarray]]:
    present = [name for name in COLUMNS if any(name in row.values for row in rows)]
    return {name: [row.values.get(name, np.zeros(0, np.int8)) for row in rows] for name in present}


def _packed(row: Row, number_of: Mapping[str, int], types: Mapping[str, str], blocks: Blocks) -> dict[str, Any]:
    values = dict(row.values)
    if row.tokens is not None:
        values[TEXT] = np.array([number_of[text] for text in row.tokens], dtype=np.int64)
    names = [name for name in types if name in values]
    return {"columns": names, "at": blocks.add(chunk(values, types)).to_list()}


def _prompt_of(columns: Mapping[str, Sequence[Any]], number: int) -> str:
    """The prompt's uid; without uids the key up to its session, and then each row is a prompt of its own."""
    return str(columns["uid"][number] if "uid" in columns else columns["key"][number])


def _about_prompt(columns: Mapping[str, Sequence[Any]], uid: str, number: int) -> dict[str, Any]:
    return {
        "uid": uid,
        "text": _text(columns, "prompt_text", number),
        "answer": _text(columns, "ground_truth", number),
        "source": _text(columns, "data_source", number),
    }


def _responses(
    columns: Mapping[str, Sequence[Any]], names: Sequence[str], numbers: Sequence[int], step: int
) -> list[Row]:
    """The rows of a prompt, in the order of its responses; with several epochs a response has a row for each."""
    order: dict[str, list[int]] = {}
    for number in numbers:
        order.setdefault(str(columns["key"][number]), []).append(number)
    rows = []
    for at, repeats in enumerate(order.values(), start=1):
        updates = sorted(
            (columns["mini_batch"][number] if "mini_batch" in columns else 0, number) for number in repeats
        )
        for update, number in updates:
            row = _row(columns, names, number, step)
            row.about["name"] = f"{at}, update {update}" if len(updates) > 1 else str(at)
            rows.append(row)
    return rows


def _row(columns: Mapping[str, Sequence[Any]], names: Sequence[str], number: int, step: int) -> Row:
    values = {name: np.asarray(columns[name][number]) for name in names}
    tokens = columns[TOKENS][number] if TOKENS in columns else None
    count = len(values["responses"])
    lengths = {name: len(array) for name, array in values.items()} | (
        {TOKENS: len(tokens)} if tokens is not None else {}
    )
    wrong = [f"{name} has {length}" for name, length in lengths.items() if length != count]
    if wrong:
        key = columns["key"][number]
        raise ViewError([f"step {step}, row {key}: {count} tokens in the response, but {', '.join(wrong)}"])
    mask = values["response_mask"].astype(bool) if "response_mask" in values else np.ones(count, bool)
    about = {
        "key": str(columns["key"][number]),
        "tokens": count,
        "score": _score(columns, values, mask, number),
        "extra": _extra(_text(columns, "reward_extra_info", number)),
        **{name: int(columns[name][number]) for name in ("mini_batch", "rank") if name in columns},
        **_means(values, mask),
    }
    return Row(about, values, mask, tokens)


def _means(values: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, float | None]:
    """What stands above a response: shares of clipped tokens, mean entropy."""
    shares = {name: values[name][mask] != 0 for name in scales.CLIP_COLUMNS if name in values}
    if "entropy" in values:
        shares["entropy"] = values["entropy"][mask].astype(np.float64)
    return {name: _finite(array.mean()) if len(array) else None for name, array in shares.items()}


def _score(
    columns: Mapping[str, Sequence[Any]], values: Mapping[str, np.ndarray], mask: np.ndarray, number: int
) -> float | None:
    """The row's reward: its own column, or the sum of the rewards of its tokens."""
    if "score" in columns:
        return _finite(columns["score"][number])
    for name in ("token_level_rewards", "rm_scores"):
        if name in values:
            return _finite(values[name][mask].sum())
    return None


def _finite(value: Any) -> float | None:
    """The number, or None for what JSON does not have."""
    return float(value) if value is not None and np.isfinite(value) else None


def _text(columns: Mapping[str, Sequence[Any]], name: str, number: int) -> str | None:
    value = columns[name][number] if name in columns else None
    return None if value is None else str(value)


def _extra(text: str | None) -> str | None:
    """What the reward function returned, in one line."""
    if not text:
        return None
    found = json.loads(text)
    return ", ".join(f"{name}: {value}" for name, value in found.items()) if isinstance(found, dict) else str(found)

r"""One row of the training data, and the right answer in the format that its prompt asks for, or that it declares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_ext.rewards.answer_text import ANSWER_FORMATS, written
from verl_ext.toy.task import DATA_SOURCE as DEMO

LONGEST = 200
"""Characters of an answer; a longer ground truth is a solution, or a program's tests."""


def first(path: str) -> dict[str, Any]:
    """The first row of a data file that verl reads.

    Raises:
        ValueError: it has none, or is in another format.
    """
    rows: Iterator[dict[str, Any]]
    if path.endswith(".parquet"):
        from pyarrow.parquet import ParquetFile

        rows = (row for batch in ParquetFile(path).iter_batches(batch_size=1) for row in batch.to_pylist())
    elif path.endswith((".json", ".jsonl")):
        rows = _json_rows(Path(path))
    else:
        raise ValueError("verl reads .parquet, .json and .jsonl")
    row: dict[str, Any] | None = next(rows, None)
    if row is None:
        raise ValueError("it has no rows")
    return row


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Of a file with one object a line, which may be large and is not read further than asked; or with one list."""
    with path.open(encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            if line.lstrip().startswith("["):
                yield from json.loads(path.read_text(encoding="utf-8"))
                return
            yield json.loads(line)


def right_answer(row: dict[str, Any], prompt_key: str) -> tuple[str | None, str]:
    r"""A response that is right, and where there is none to be written, why.

    Example:
        >>> row = {"prompt": [{"content": "1+1=? End with \\boxed{}."}], "reward_model": {"ground_truth": "2"}}
        >>> right_answer(row, "prompt")
        ('\\boxed{2}', '')
    """
    truth = plain(row["reward_model"]["ground_truth"])
    if truth is None:
        return None, "its ground truth is no plain answer"
    prompt = text_of(row.get(prompt_key))
    said = (row.get("extra_info") or {}).get("answer_format")
    answer = _formatted(truth, prompt, row.get("data_source") == DEMO)
    if answer is None and said in ANSWER_FORMATS:
        answer = written(truth, said)
    if answer is None:
        return None, "its prompt asks for no format that is known"
    if "<answer>" in prompt:
        answer = f"<think>\nThe answer is known.\n</think>\n<answer>\n{answer}\n</answer>"
    return answer, ""


def _formatted(truth: str, prompt: str, demo: bool) -> str | None:
    lead = "Answer: " if "Answer:" in prompt else ""
    if "\\boxed" in prompt or demo:
        return f"{lead}\\boxed{{{truth}}}"
    if "####" in prompt:
        return f"#### {truth}"
    return f"{lead}{truth}" if lead or "<answer>" in prompt else None


def plain(truth: Any) -> str | None:
    """A ground truth that can stand in a response: a number or a short text, no tests, no JSON."""
    if isinstance(truth, bool) or not isinstance(truth, str | int | float):
        return None
    text = str(truth).strip()
    if not text or "\n" in text or len(text) > LONGEST:
        return None
    try:
        return None if isinstance(json.loads(text), dict | list) else text
    except ValueError:
        return text


def text_of(prompt: Any) -> str:
    """All that the messages of a prompt say."""
    if isinstance(prompt, list):
        return "\n".join(map(text_of, prompt))
    if isinstance(prompt, dict):
        return text_of(prompt.get("content", prompt.get("text", "")))
    return prompt if isinstance(prompt, str) else ""

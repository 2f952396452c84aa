"""The logs of a run's attempts: each has a file of its own, and none is ever written again."""

from __future__ import annotations

import re
from pathlib import Path

# Also the files of a run whose log is gone, and names of former versions.
_TAKEN = r"(?:{stem}[.-]|metrics-)(?P<number>\d+)\.(?:log|jsonl)"


def next_log(folder: Path, stem: str = "train") -> Path:
    """A new, empty log for the next attempt at the run in a folder: ``train.1.log``, ``train.2.log`` ...

    It is made at once, so that of two attempts that start together each has its own.

    Args:
        folder: of the run; made where missing.
        stem: what the logs are called.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = re.compile(_TAKEN.format(stem=re.escape(stem)))
    number = 1 + max(
        (int(match["number"]) for file in folder.iterdir() if (match := taken.fullmatch(file.name))), default=0
    )
    while True:
        log = folder / f"{stem}.{number}.log"
        try:
            log.touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return log


def logs_in(folder: Path, stem: str = "train") -> list[Path]:
    """The logs of the attempts at the run in a folder, in order."""
    named = {file: re.fullmatch(rf"{re.escape(stem)}\.(\d+)\.log", file.name) for file in folder.iterdir()}
    return sorted((file for file, match in named.items() if match), key=number_of)


def number_of(log: Path) -> int:
    """The attempt that a log is of.

    Example:
        >>> number_of(Path("run/train.12.log"))
        12
    """
    return int(log.name.rsplit(".", 2)[1])


def metrics_of(log: Path) -> Path:
    """The metrics file of the attempt that a log is of.

    Example:
        >>> metrics_of(Path("run/train.2.log")).name
        'metrics-2.jsonl'
    """
    return log.with_name(f"metrics-{number_of(log)}.jsonl")

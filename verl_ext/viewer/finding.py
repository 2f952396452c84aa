"""Where the exports of a run lie."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "token_export"
STEP = re.compile(r"step-(\d+)")


class ViewError(Exception):
    """There is nothing to show; `faults` says why, one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def find(path: Path) -> dict[int | None, Path]:
    """The exports at a path, sorted by step.

    Args:
        path: a parquet file, a step's folder, `token_export`, or a folder that holds `token_export` at any depth.

    Returns:
        step -> a file or a folder of parts; the step is None where the path does not say it.

    Raises:
        ViewError: nothing there, or several runs.
    """
    if not path.exists():
        raise ViewError([f"{path} does not exist"])
    if path.is_file() or next(path.glob("*.parquet"), None):
        return {None: path}
    steps = _steps(path)
    if steps:
        return steps
    below = sorted(found for found in path.rglob(FOLDER) if found.is_dir() and _steps(found))
    if len(below) > 1:
        raise ViewError([f"{path} holds the exports of several runs, name one: {', '.join(map(str, below))}"])
    if not below:
        raise ViewError(
            [
                f"{path} holds no export of tokens: no parquet file, no folder step-<n>, no {FOLDER}; "
                "a run writes one with +verl_ext.export.every=N"
            ]
        )
    return _steps(below[0])


def _steps(folder: Path) -> dict[int | None, Path]:
    named = ((STEP.fullmatch(child.name), child) for child in folder.iterdir())
    found = {int(match[1]): child for match, child in named if match and next(child.glob("*.parquet"), None)}
    return {step: found[step] for step in sorted(found)}

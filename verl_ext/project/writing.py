"""Writing the folder of a new project: the files of ``template/`` filled in, and the examples."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from verl_ext.project.examples import Examples, ProjectError, Row

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RENDERED = ".j2"
_HIDDEN = "dot-"
_MODEL = Path("outputs/models/tiny_dense")
"""Where `model=tiny_dense` looks for it from the project's folder."""

RESPONSE = 64
POSITIONS = 512
"""Of the tiny model."""
_MOST_PROMPT = POSITIONS - RESPONSE


def faults(folder: Path) -> list[str]:
    """Why a project cannot be made there."""
    found = []
    if not _NAME.fullmatch(folder.name):
        found.append(f"'{folder.name}' cannot be a project's name; use letters, digits, - and _, a letter first")
    if folder.is_dir() and not any(folder.iterdir()):
        return found
    if folder.exists() or folder.is_symlink():
        found.append(f"{folder} exists; choose another name, or remove it first: nothing is overwritten")
    return found


def settings(name: str, examples: Examples) -> dict[str, Any]:
    """What the templates are filled with.

    Batches are as large as the examples allow: verl leaves out a last batch that is not full, and one that is larger
    than the data would be left out always.
    """
    fours = len(examples.train) // 4 * 4
    longest = examples.longest
    return {
        "name": name,
        "source": examples.source,
        "train": len(examples.train),
        "validation": len(examples.validation),
        "prompt": min(longest, _MOST_PROMPT),
        "response": RESPONSE,
        "tiny_batch": min(16, fours),
        "tiny_mini": min(16, fours) // 4,
        "batch": min(64, fours),
        "mini": min(64, fours) // 4,
    }


def write(folder: Path, examples: Examples, model: Path | None = None) -> list[Path]:
    """Make the project; the folder appears by one rename when it is complete.

    Args:
        folder: of the project; its name is the project's.
        examples: what it trains on.
        model: a model folder to copy to where ``model=tiny_dense`` finds it.

    Returns:
        The files, relative to the folder, without the model's.

    Raises:
        ProjectError: if the name cannot be used or the folder is there.
    """
    if found := faults(folder):
        raise ProjectError(found)
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        files = _fill(part, settings(folder.name, examples), examples)
        if model is not None:
            shutil.copytree(model, part / _MODEL)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return files


def _fill(target: Path, values: dict[str, Any], examples: Examples) -> list[Path]:
    written = []
    for path, text in template_files():
        content = _render(text, values) if path.suffix == _RENDERED else text
        name = path.name.removesuffix(_RENDERED)
        hidden = name.startswith(_HIDDEN)
        relative = path.with_name(f".{name.removeprefix(_HIDDEN)}" if hidden else name)
        _write(target / relative, content)
        written.append(relative)
    for name, rows in (("train", examples.train), ("validation", examples.validation)):
        relative = Path("data") / f"{name}.jsonl"
        _write(target / relative, _lines(rows))
        written.append(relative)
    return sorted(written)


def template_files() -> list[tuple[Path, str]]:
    """The files of ``template/`` and their texts, from wherever the package is installed."""
    with resources.as_file(resources.files("verl_ext.project") / "template") as root:
        files = (path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
        return [(path.relative_to(root), path.read_text(encoding="utf-8")) for path in files]


def _render(text: str, values: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    return Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(text).render(values)


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

"""Sizes of published models, for machines that cannot reach the hub: one JSON file a model of configs/model.

Each file has the keys of a ``config.json`` that decide the sizes (`config`), the hub's names that share them
(`names`), where they were read (`source`), whether nobody has compared them with the hub's own file (`unverified`),
and the parameters that `verl_ext.sizing.model.measure` counts in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Published:
    """One file of this folder.

    Attributes:
        key: the file's name without its ending; that of the model in configs/model.
        names: what the hub calls models of these sizes.
        source: where the values were read.
        unverified: nobody has compared them with the hub's own config.json.
        parameters: all of them, a shared embedding counted once.
        active_parameters: those that one token uses; of a dense model all.
        config: what transformers' configuration class takes, ``model_type`` included.
    """

    key: str
    names: tuple[str, ...]
    source: str
    unverified: bool
    parameters: int
    active_parameters: int
    config: Mapping[str, Any]


@cache
def published() -> Mapping[str, Published]:
    """Every file by its key.

    Example:
        >>> published()["qwen2_5_7b"].parameters
        7615616512
    """
    files = sorted(Path(__file__).parent.glob("*.json"))
    return {file.stem: _read(file) for file in files}


def find(name: str) -> Published | None:
    """The sizes of a model by the hub's name or by the last part of a path; None if they are not here."""
    for known in published().values():
        if name in known.names or name.rstrip("/").rsplit("/", 1)[-1] == known.key:
            return known
    return None


def _read(file: Path) -> Published:
    entry = json.loads(file.read_text(encoding="utf-8"))
    return Published(key=file.stem, names=tuple(entry.pop("names")), **entry)

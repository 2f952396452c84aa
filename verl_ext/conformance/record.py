"""Results as plain data, failing cases as files, and the way back from such a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from verl_ext.conformance.battery import Cell, Row, verdict
from verl_ext.conformance.cases import Case
from verl_ext.conformance.estimators import EstimatorCase
from verl_ext.conformance.properties import Violation
from verl_ext.conformance.registry import KINDS, registered, subjects
from verl_ext.conformance.subjects import untouched_generators

FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """A failing case as it stands in a file."""

    kind: str
    name: str
    key: str
    imports: tuple[str, ...]
    clip: str
    message: str
    case: Case


def save(row: Row, key: str, folder: Path, imports: Sequence[str], clip: str = "") -> Path:
    """Write a failing case; returns the file."""
    cell = row.cells[key]
    content = {
        "format": FORMAT,
        "kind": row.subject.kind,
        "name": row.subject.name,
        "property": key,
        "import": list(imports),
        "clip": clip,
        "message": cell.message,
        "case": cell.case.to_json(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row.subject.kind}.{row.subject.name}.{key}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def load(path: Path) -> Saved:
    """Read what `save` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text())
        wanted = {"loss": Case, "estimator": EstimatorCase}[content["kind"]]
        case = wanted.from_json(content["case"])
        names = (content["kind"], content["name"], content["property"], tuple(content["import"]))
        clip, message = content.get("clip", ""), content["message"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a case that `verl-ext conformance` has written: {error!r}") from error
    return Saved(*names, clip, message, case)


def replay(saved: Saved) -> Violation | None:
    """What is wrong with a saved case today, or None.

    Raises:
        ValueError: the method or the property is not there, or the method cannot be tested.
    """
    found = registered(saved.kind)
    if saved.name not in found:
        raise ValueError(f"'{saved.name}' is not in verl's registry; --import the module that registers it")
    prop = KINDS[saved.kind].columns.get(saved.key)
    if prop is None:
        raise ValueError(f"no property '{saved.key}'; there are {', '.join(KINDS[saved.kind].columns)}")
    (subject,) = subjects(saved.kind, [saved.name], saved.clip)
    if subject.skip:
        raise ValueError(f"'{saved.name}' cannot be tested: {subject.skip}")
    with untouched_generators():
        return verdict(subject, prop, saved.case)


def command(row: Row, key: str, path: Path) -> str:
    """The command that replays a saved case."""
    return f"verl-ext conformance {row.subject.name} --property {key} --replay {shlex.quote(str(path))}"


def as_data(tables: Mapping[str, Sequence[Row]], paths: Mapping[tuple[str, str, str], Path], **run: Any) -> Any:
    """The whole result as plain data, for `--json`.

    Args:
        tables: kind -> rows.
        paths: (kind, name, property) -> file of the failing case.
        **run: how the battery was run (seed, examples).
    """
    return {
        "format": FORMAT,
        "versions": {name: version(name) for name in ("verl", "torch", "verl-ext")},
        **run,
        **{
            KINDS[kind].plural: {
                "properties": {key: prop.statement for key, prop in KINDS[kind].columns.items()},
                "methods": [_row(row, paths) for row in rows],
            }
            for kind, rows in tables.items()
        },
    }


def _row(row: Row, paths: Mapping[tuple[str, str, str], Path]) -> dict[str, Any]:
    subject = row.subject
    return {
        "name": subject.name,
        "origin": subject.origin,
        "skipped": subject.skip or None,
        "cells": {
            key: _cell(cell, paths.get((subject.kind, subject.name, key)), row, key) for key, cell in row.cells.items()
        },
    }


def _cell(cell: Cell, path: Path | None, row: Row, key: str) -> dict[str, Any]:
    data: dict[str, Any] = {"status": cell.status, "left_out": dict(cell.left_out)}
    if cell.status == "fail":
        data |= {"grade": cell.grade, "message": cell.message, "case": cell.case.to_json()}
        if cell.given is not cell.case:
            data |= {"given": cell.given.to_json()}
        if path is not None:
            data |= {"file": str(path), "replay": command(row, key, path)}
    return data

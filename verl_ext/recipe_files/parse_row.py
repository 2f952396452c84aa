"""A row of a table's file, with the table's defaults merged below it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from verl_ext.config_groups import GROUPS
from verl_ext.recipe_files.reader import Reader, has_type, listed
from verl_ext.recipe_files.schema import KINDS, RUN_KINDS, Checkpoint, Column, Derived, Endpoint, Row

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REFERENCE = re.compile(r"[a-z0-9_]+/[a-z0-9_]+/[a-z0-9_]+")
_OPERATIONS = ("difference", "mean")
_NEEDED_CHOICES = {
    "train": ("model", "data", "algo"),
    "sft": ("model", "data"),
    "evaluate": (),
    "same_as": (),
    "derived": (),
}
# What a kind takes over from the defaults: the defaults describe the table's training.
_INHERITED: Mapping[str, tuple[str, ...]] = {
    "train": ("choices", "overrides", "seeds", "checkpoint"),
    "sft": ("seeds", "checkpoint"),
    "evaluate": ("seeds",),
    "same_as": (),
    "derived": (),
}
_WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "train": (),
    "sft": (),
    "evaluate": ("overrides", "checkpoint"),
    "same_as": ("overrides", "checkpoint", "choices", "seeds", "template"),
    "derived": ("overrides", "checkpoint", "choices", "seeds", "template"),
}

ROW_OPTIONS: dict[str, Any] = {
    "kind": str, "choices": dict, "overrides": dict, "seeds": list, "checkpoint": dict, "template": str,
}  # fmt: skip
_ROW_ONLY: dict[str, Any] = {"panel": str, "notes": list, "endpoint": dict, "same_as": str, "derived": dict}


class RowReader(Reader):
    """Reads rows."""

    def row(self, data: Any, defaults: dict[str, Any], columns: list[Column], template: str) -> Row | None:
        name = data.get("name", "?") if isinstance(data, dict) else data
        where = f"{self.where}/{name}"
        if not self.keys(data, where, {"name": str, "label": str, "published": dict}, ROW_OPTIONS | _ROW_ONLY):
            return None
        if not _NAME.fullmatch(name):
            self.faults.append(f"{where}: the name must be snake_case")
        kind = data.get("kind", defaults.get("kind", "train"))
        if kind not in KINDS:
            self.faults.append(f"{where}: kind '{kind}' is not one of {listed(KINDS)}")
            return None
        merged = _merged(data, {key: value for key, value in defaults.items() if key in _INHERITED[kind]})
        row = Row(
            name, data["label"], data.get("panel"), kind,
            choices={group: str(option) for group, option in merged.get("choices", {}).items()},
            overrides=merged.get("overrides", {}),
            seeds=self.seeds(merged, where, kind),
            checkpoint=self.checkpoint(merged.get("checkpoint"), where),
            published=self.published(data["published"], columns, where),
            notes=self.notes(data, where),
            endpoint=self.endpoint(data, where),
            same_as=data.get("same_as"),
            derived=self.derived(data, where),
            table=self.where,
            template=data.get("template", defaults.get("template", template)),
        )  # fmt: skip
        self.kind(row, data, where)
        return row

    def kind(self, row: Row, data: dict[str, Any], where: str) -> None:
        """What a row of this kind must have, and must not."""
        needed = {"same_as": row.kind == "same_as", "derived": row.kind == "derived"}
        for key, wanted in needed.items():
            if wanted and key not in data:
                self.faults.append(f"{where}: a row of kind {key} must have the key '{key}'")
            if not wanted and key in data:
                self.faults.append(f"{where}: '{key}' is for rows of kind {key}, this one is of kind {row.kind}")
        if missing := [group for group in _NEEDED_CHOICES[row.kind] if group not in row.choices]:
            self.faults.append(f"{where}: choices must have {listed(missing)}")
        if unknown := [group for group in row.choices if group not in GROUPS]:
            self.faults.append(f"{where}: choices has no group {listed(unknown)}; groups are {listed(GROUPS)}")
        if row.kind == "evaluate" and ("model" in row.choices) == (row.endpoint is not None):
            self.faults.append(f"{where}: a row of kind evaluate has either choices.model or an endpoint")
        if row.kind != "evaluate" and row.endpoint is not None:
            self.faults.append(f"{where}: an endpoint cannot be trained; its rows are of kind evaluate")
        if useless := [key for key in _WITHOUT_EFFECT[row.kind] if key in data]:
            self.faults.append(f"{where}: {listed(useless)} would have no effect in a row of kind {row.kind}")
        if row.kind == "evaluate" and (others := [group for group in row.choices if group != "model"]):
            self.faults.append(f"{where}: choices of {listed(others)} would have no effect in a row of kind evaluate")
        if row.same_as is not None and not _REFERENCE.fullmatch(row.same_as):
            self.faults.append(f"{where}: same_as must be <paper>/<table>/<row>, got '{row.same_as}'")

    def seeds(self, merged: dict[str, Any], where: str, kind: str) -> tuple[int, ...]:
        seeds = merged.get("seeds", [1] if kind in RUN_KINDS else [])
        right = all(has_type(seed, int) and seed >= 0 for seed in seeds) and len(set(seeds)) == len(seeds)
        if not right or (kind in RUN_KINDS and not seeds):
            self.faults.append(f"{where}: seeds must be different whole numbers from 0, at least one; got {seeds!r}")
            return ()
        return tuple(seeds)

    def checkpoint(self, data: Any, where: str) -> Checkpoint:
        if data is None or not self.keys(data, f"{where} checkpoint", {"rule": str}, {"every": int}):
            return Checkpoint()
        rule, every = data["rule"], data.get("every")
        if not ((rule == "last" and every is None) or (rule == "best" and every is not None and every > 0)):
            self.faults.append(f"{where}: checkpoint must be {{rule: last}} or {{rule: best, every: N}}, got {data!r}")
        return Checkpoint(rule, every)

    def published(self, data: dict[str, Any], columns: list[Column], where: str) -> dict[str, float | None]:
        names = [column.name for column in columns]
        if missing := [name for name in names if name not in data]:
            self.faults.append(f"{where}: published lacks {listed(missing)}; write null where the paper prints nothing")
        for name, value in data.items():
            if name not in names:
                self.faults.append(f"{where}: published has '{name}', which is no column")
            elif value is not None and not has_type(value, float):
                self.faults.append(f"{where}: published {name} must be a number or null, got {value!r}")
        return {name: data.get(name) for name in names}

    def endpoint(self, data: dict[str, Any], where: str) -> Endpoint | None:
        found = data.get("endpoint")
        options = {"base_url_env": str, "api_key_env": str}
        if found is None or not self.keys(found, f"{where} endpoint", {"model": str}, options):
            return None
        return Endpoint(**found)

    def derived(self, data: dict[str, Any], where: str) -> Derived | None:
        found = data.get("derived")
        if found is None:
            return None
        operation, rows = next(iter(found.items())) if len(found) == 1 else ("", [])
        right = operation in _OPERATIONS and isinstance(rows, list) and all(isinstance(row, str) for row in rows)
        if not right or (len(rows) != 2 if operation == "difference" else not rows):
            self.faults.append(
                f"{where}: derived must be {{difference: [row, row]}} or {{mean: [rows]}}, got {found!r}"
            )
            return None
        return Derived(operation, tuple(rows))


def _merged(row: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`row` over `defaults`, dictionaries key by key; a checkpoint is one thing and is replaced whole."""
    merged = {**defaults, **row}
    for key in ("choices", "overrides"):
        if key in merged:
            merged[key] = {**(defaults.get(key) or {}), **(row.get(key) or {})}
    return merged

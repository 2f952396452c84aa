"""Reading a mapping that people wrote, with everything that is wrong with it noted instead of raised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

TYPE_NAMES = {
    str: "text", dict: "key: value pairs", list: "a list", int: "a whole number", float: "a number",
}  # fmt: skip


def has_type(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


class RecipeError(ValueError):
    """Faults of recipes, each with its file or row.

    Attributes:
        faults: one sentence each.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(f"- {fault}" for fault in self.faults) if len(self.faults) > 1 else self.faults[0])


class Reader:
    """Checks the parts of one file; `faults` is what is wrong with them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[str] = []

    def keys(self, data: Any, where: str, required: Mapping[str, type], optional: Mapping[str, Any]) -> bool:
        """Whether `data` is a mapping with the right keys and types of values; what is wrong is noted."""
        if not isinstance(data, dict):
            self.faults.append(f"{where}: expected key: value pairs, got {data!r}")
            return False
        before = len(self.faults)
        if missing := [key for key in required if data.get(key) is None]:
            self.faults.append(f"{where}: {listed(missing)} must be given")
        if unknown := [key for key in data if key not in required and key not in optional]:
            self.faults.append(f"{where}: {listed(unknown)} not known; known: {listed([*required, *optional])}")
        for key, kind in {**required, **optional}.items():
            value = data.get(key)
            if value is not None and not has_type(value, kind):
                self.faults.append(f"{where}: {key} must be {TYPE_NAMES[kind]}, got {value!r}")
        return len(self.faults) == before

    def notes(self, data: dict[str, Any], where: str) -> tuple[str, ...]:
        notes = data.get("notes") or []
        if not all(isinstance(note, str) for note in notes):
            self.faults.append(f"{where}: notes must be sentences (quote those with a colon), got {notes!r}")
        return tuple(notes)

    def twice(self, names: Iterable[str], what: str) -> None:
        seen = list(names)
        if twice := sorted({name for name in seen if seen.count(name) > 1}):
            self.faults.append(f"{self.where}: {what} with the same name: {listed(twice)}")


def listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))

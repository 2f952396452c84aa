"""No two packages import each other, late imports and imports for types included; nor do two files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in (ROOT / "verl_ext").rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports here are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in names)


def package(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("unit", [str, package], ids=["files", "packages"])
def test_there_is_no_circle(unit: type[str]) -> None:
    graph: dict[str, set[str]] = {}
    for name, file in MODULES.items():
        graph.setdefault(unit(name), set()).update(unit(other) for other in imported(file) if other in MODULES)
    try:
        TopologicalSorter(without_self(graph)).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def without_self(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    return {name: others - {name} for name, others in graph.items()}

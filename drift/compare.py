"""One symbol in two releases: the same, changed, or gone. Sources are read; nothing is imported."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from functools import cached_property

from drift.code import Code, Definition

OK, CHANGED, GONE = "ok", "changed", "gone"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Finding:
    """What became of a symbol: `status` ok, changed or gone, and in words what changed."""

    symbol: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two releases of one package: the one that was tested, and another."""

    tested: Code
    other: Code
    symbols: tuple[str, ...]

    @cached_property
    def findings(self) -> list[Finding]:
        """One for each symbol, in their order."""
        return [self._one(symbol) for symbol in self.symbols]

    def _one(self, symbol: str) -> Finding:
        here, there = self.tested.find(symbol), self.other.find(symbol)
        if there is None:
            return Finding(symbol, GONE, "" if here is not None else "not found in the tested release either")
        if here is None:
            return Finding(symbol, CHANGED, "not found in the tested release")
        if isinstance(here, ast.Module) or any(other.startswith(f"{symbol}.") for other in self.symbols):
            return Finding(symbol, OK)  # what of it is used has lines of its own
        changes = ""
        if isinstance(here, FUNCTIONS) and isinstance(there, FUNCTIONS):
            changes = differing(parameters(here), parameters(there))
        if changes:
            return Finding(symbol, CHANGED, f"parameters: {changes}")
        before, after = text(here), text(there)
        if before == after:
            return Finding(symbol, OK)
        return Finding(symbol, CHANGED, f"code: {counted(before, after)}")


def text(node: ast.AST) -> str:
    """Source without comments and docstrings, formatted one way."""
    copy = ast.parse(ast.unparse(node))
    for inner in ast.walk(copy):
        if isinstance(inner, Definition) and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(copy)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """One text for each parameter, in their order: name, type and default, and the stars."""
    return [part.strip() for part in split(ast.unparse(function.args))]


def split(arguments: str) -> list[str]:
    """At the commas outside of brackets."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def differing(before: list[str], after: list[str]) -> str:
    """``-a: int +a: int | None``: what was taken away and what was added."""
    marked = difflib.ndiff(before, after)
    return ", ".join(f"{line[0]}{line[2:]}" for line in marked if line[0] in "-+")


def counted(before: str, after: str) -> str:
    """``-3 +5 lines``."""
    lines = [line[0] for line in difflib.ndiff(before.splitlines(), after.splitlines())]
    return f"-{lines.count('-')} +{lines.count('+')} lines"

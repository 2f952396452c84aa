"""The sources of a release, and where its names are defined. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Code:
    """The sources of a release, and where its names are defined.

    >>> code = Code({"p/__init__.py": "from p.q import f", "p/q.py": "def f(a, b=1): return a"})
    >>> ast.unparse(code.find("p:f").args)
    'a, b=1'
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self._trees: dict[str, ast.Module] = {}

    def tree(self, module: str) -> ast.Module | None:
        """A module's source as a tree; None where there is no such module."""
        base = module.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if path in self.files:
                if path not in self._trees:
                    self._trees[path] = ast.parse(self.files[path])
                return self._trees[path]
        return None

    def find(self, symbol: str) -> ast.AST | None:
        """Where ``module:name.name`` is defined, followed through imports and base classes; None if nowhere."""
        module, _, names = symbol.partition(":")
        found: ast.AST | None = self.tree(module)
        for name in names.split(".") if names else []:
            if isinstance(found, ast.Module):
                found, module = self._global(module, name)
            elif isinstance(found, ast.ClassDef):
                found, module = self._member(module, found, name)
            else:
                return None
        return found

    def _global(self, module: str, name: str, depth: int = 8) -> tuple[ast.AST | None, str]:
        tree = self.tree(module)
        if tree is None or not depth:
            return None, module
        stars = []
        for node in statements(tree.body):
            if name in bound(node):
                return node, module
            if isinstance(node, ast.ImportFrom):
                home = self._home(module, node)
                for alias in node.names:
                    if alias.name == "*":
                        stars.append(home)
                    elif (alias.asname or alias.name) == name:
                        return self._imported(home, alias.name, node, depth)
            elif isinstance(node, ast.Import) and name in {(a.asname or a.name).split(".")[0] for a in node.names}:
                return node, module
        for home in stars:
            found = self._global(home, name, depth - 1)
            if found[0] is not None:
                return found
        if (value := lazy(tree, name)) is not None:
            return value, module
        return self.tree(f"{module}.{name}"), f"{module}.{name}"

    def _imported(self, home: str, name: str, node: ast.ImportFrom, depth: int) -> tuple[ast.AST | None, str]:
        if self.tree(home) is None:
            # Of another distribution: the line is all there is to see. Of this one: it would not import.
            ours = any(path.startswith(home.split(".")[0] + "/") for path in self.files)
            return (None if ours else node), home
        return self._global(home, name, depth - 1)

    def _home(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        is_package = f"{module.replace('.', '/')}/__init__.py" in self.files
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, node.module] if node.module else parts)

    def _member(self, module: str, owner: ast.ClassDef, name: str) -> tuple[ast.AST | None, str]:
        found, home = self._inherited(module, owner, name)
        if found is None:
            # Every class has one; and a dataclass's, or pydantic's, is written nowhere but in its fields.
            found = owner if name == "__init__" else self._registered(module, owner, name)
        return found, home

    def _inherited(self, module: str, owner: ast.ClassDef, name: str) -> tuple[ast.AST | None, str]:
        for node in statements(owner.body):
            if name in bound(node):
                return node, module
        for base in owner.bases:
            parent, home = self._global(module, base.id) if isinstance(base, ast.Name) else (None, module)
            if isinstance(parent, ast.ClassDef):
                found = self._inherited(home, parent, name)
                if found[0] is not None:
                    return found
        return None, module

    def _registered(self, module: str, owner: ast.ClassDef, name: str) -> ast.Call | None:
        """``Owner.register("NAME")``, which makes members while the module is imported."""
        for node in ast.walk(self.tree(module) or owner):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(f"{owner.name}."):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and first.value == name:
                    return node
        return None


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, also those under ``if`` and ``try``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from statements(node.body)
            yield from statements(node.orelse)
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def bound(node: ast.stmt) -> set[str]:
    """Names that a definition or an assignment gives a meaning."""
    if isinstance(node, Definition):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def lazy(tree: ast.Module, name: str) -> ast.expr | None:
    """What a module with a ``__getattr__`` keeps under that name in a dictionary."""
    if not any("__getattr__" in bound(node) for node in tree.body):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name:
                    return value
    return None

"""Which names of verl and vLLM this package uses, read out of its own source.

Found are: imports; attributes of imported modules and classes; attributes of the modules that `HOOKS` and `TAPS` hand
to our functions, and of the classes taken out of them; dotted names in strings; and the symbols that the patches'
contract test lists. Attributes of objects made at run time (`self.config.custom`) are not: contract tests see to those.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from drift import ROOT, of_tests
from verl_ext.bridge.install import HOOKS
from verl_ext.rollout.tap import TAPS

UPSTREAM = ("verl", "vllm")
# What a string looks like that names a module, or a symbol in one.
DOTTED = re.compile(r"(verl|vllm)(\.[a-z_]\w*)+(:\w+(\.\w+)*)?")
# Groups of entry points, which look like modules.
NO_MODULE = {"verl.plugins", "vllm.general_plugins"}

Symbols = dict[str, set[str]]
"""``module:name`` -> the files of ours that use it; ``module:`` is a module as such."""


@functools.cache
def used(root: Path = ROOT) -> dict[str, list[str]]:
    """Every name of verl and vLLM in ``verl_ext/``, in alphabetical order, with the files that use it."""
    patched = of_tests("tests/platform/patch_probe.py").SYMBOLS
    found: Symbols = {symbol: {"verl_ext/platform/patches.py"} for symbol in patched if symbol.startswith(UPSTREAM)}
    handed: dict[str, set[str]] = {}
    for module, hook in HOOKS:
        if module.split(".")[0] in UPSTREAM:
            handed.setdefault(hook, set()).add(module)
    for module, tap in TAPS.items():
        handed.setdefault(f"{tap.__module__}:{tap.__name__}", set()).add(module)
    for path in sorted((root / "verl_ext").rglob("*.py")):
        where = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text())
        names = [*of_file(tree), *of_strings(tree)]
        for hook, modules in handed.items():
            home, function = hook.split(":")
            if home.replace(".", "/") + ".py" == where:
                names += [name for module in modules for name in of_hook(tree, function, module)]
        for name in names:
            found.setdefault(name, set()).add(where)
    return {name: sorted(found[name]) for name in sorted(found) if not _is_part(name, found)}


def _is_part(name: str, found: Symbols) -> bool:
    """A module of which single names are used says nothing more."""
    return name.endswith(":") and any(other.startswith(name) and other != name for other in found)


def of_file(tree: ast.AST) -> Iterator[str]:
    """Imports of verl and vLLM, and attributes of what was imported."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UPSTREAM and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}:{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in UPSTREAM and alias.name not in UPSTREAM:
                    yield f"{alias.name}:"
        elif isinstance(node, ast.Assign) and (module := _loaded(node.value)):
            known |= {target.id: f"{module}:" for target in node.targets if isinstance(target, ast.Name)}
    yield from known.values()
    yield from _attributes(tree, known)


def _loaded(value: ast.expr) -> str:
    """``verl.x`` of ``importlib.import_module("verl.x")``; empty for anything else."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("import_module") and value.args:
        argument = value.args[0]
        if isinstance(argument, ast.Constant) and str(argument.value).split(".")[0] in UPSTREAM:
            return str(argument.value)
    return ""


def of_strings(tree: ast.AST) -> Iterator[str]:
    """Modules and symbols that are named in strings: hooks, patches, programs that are started with ``-m``."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and DOTTED.fullmatch(text) and text not in NO_MODULE:
            yield text if ":" in text else f"{text}:"


def of_hook(tree: ast.AST, function: str, module: str) -> Iterator[str]:
    """What a function takes out of the module that it is given, and out of the classes that it took."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            known = {node.args.args[0].arg: f"{module}:"}
            for assignment in (item for item in ast.walk(node) if isinstance(item, ast.Assign)):
                known |= dict(_named(assignment, known))
            yield from _attributes(node, known)


def _named(assignment: ast.Assign, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """``(name, symbol)`` for ``name = module.Class``, and for several at once."""
    for target in assignment.targets:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = assignment.value.elts if isinstance(assignment.value, ast.Tuple) else [assignment.value]
        for name, value in zip(names, values, strict=False):
            if isinstance(name, ast.Name) and (symbol := _symbol(value, known)):
                yield name.id, symbol


def _attributes(tree: ast.AST, known: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            symbol = _symbol(node, known)
            # Ours are put there; the rest of the underscores (__name__ ...) every object has.
            if symbol and "verl_ext" not in symbol and not symbol.endswith(("__doc__", "__name__", "__dict__")):
                yield symbol


def _symbol(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
        owner = known[node.value.id]
        return f"{owner}{node.attr}" if owner.endswith(":") else f"{owner}.{node.attr}"
    return ""

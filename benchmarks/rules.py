r"""The rules of the reader of answers, found in its modules, each with a way to switch it off in this process.

A rule is an entry of `_latex._RULES`; a spelling, character or unit of a table, with all others that mean the same; a
regular expression (switched off, it matches nothing); a function that says whether something is so (switched off: no),
that finds something (switched off: nothing) or changes an answer or a text (switched off: as it was).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_NEVER = re.compile(r"(?!)")
_LEFT_ALONE = frozenset({"grade", "task", "kind", "warm_up", "canonical", "key", "begin", "spend", "expression", "read"})


@dataclass(frozen=True)
class Rule:
    """A rule by name; `find` gives it again in a process that was forked.

    Attributes:
        name: module and what it is there.
        switch_off: changes the loaded modules.
    """

    name: str
    switch_off: Callable[[], None]

    def __reduce__(self) -> tuple[Callable[[str], Rule], tuple[str]]:
        return by_name, (self.name,)


def by_name(name: str) -> Rule:
    """The rule of that name."""
    return next(rule for rule in find() if rule.name == name)


def modules() -> list[ModuleType]:
    """What the grading processes have of ours."""
    import verl_ext.rewards._grading  # noqa: F401  (loads the others)

    names = sorted(name for name in sys.modules if re.fullmatch(r"verl_ext\.rewards\._[a-z]+", name))
    return [sys.modules[name] for name in names if not name.endswith("_child")]


def forget() -> None:
    """Empty every cache of the reader."""
    for module in modules():
        for value in vars(module).values():
            getattr(value, "cache_clear", lambda: None)()


def replaced(old: Any, new: Any) -> Callable[[], None]:
    """A change of every name that stands for `old`, in whatever module."""

    def switch() -> None:
        for module in modules():
            for name in [name for name, value in vars(module).items() if value is old]:
                setattr(module, name, new)
        forget()

    return switch


def _nothing_as(annotation: str, function: Callable[..., Any]) -> Callable[..., Any] | None:
    parameters = list(inspect.signature(function).parameters.values())
    if annotation == "bool":
        return lambda *_, **__: False
    if annotation.endswith("| None"):
        return lambda *_, **__: None
    if not parameters:
        return None
    if "re.Match" in str(parameters[0].annotation) and annotation == "str":
        return lambda match: match.group()
    if annotation in ("str", "Answer", "Leaf") and parameters[0].annotation == annotation:
        return lambda first, *_, **__: first
    return None


def _functions(module: ModuleType, label: str) -> Iterator[Rule]:
    for name, value in vars(module).items():
        function = inspect.unwrap(value) if callable(value) else None
        if not inspect.isfunction(function) or function.__module__ != module.__name__ or name in _LEFT_ALONE:
            continue
        instead = _nothing_as(str(inspect.signature(function).return_annotation), function)
        if instead is not None:
            yield Rule(f"{label}: {name}()", replaced(value, instead))


def _expressions(module: ModuleType, label: str) -> Iterator[Rule]:
    for name, value in vars(module).items():
        imported = any(value is other for before in modules() if before is not module and before.__name__ < module.__name__
                       for other in vars(before).values())  # fmt: skip
        if isinstance(value, re.Pattern) and not imported:
            yield Rule(f"{label}: {name}", replaced(value, _NEVER))


def _removed(table: dict[Any, Any], keys: list[Any]) -> Callable[[], None]:
    def switch() -> None:
        for entry in keys:
            table.pop(entry, None)
        forget()

    return switch


def _tables(module: ModuleType, label: str) -> Iterator[Rule]:
    for name, table in vars(module).items():
        if not isinstance(table, dict) or not name.startswith("_") or name.startswith("__") or len(table) < 5:
            continue
        groups: dict[str, list[Any]] = {}
        for entry, meaning in table.items():
            same = meaning[1:] if isinstance(meaning, tuple) else meaning
            groups.setdefault(getattr(same, "__name__", repr(same)), []).append(entry)
        for entries in groups.values():
            shown = " ".join(chr(entry) if isinstance(entry, int) else str(entry) for entry in entries)
            yield Rule(f"{label}: {name} {shown}", _removed(table, entries))


def _rewrites() -> Iterator[Rule]:
    from verl_ext.rewards import _latex

    def off(pattern: str) -> Callable[[], None]:
        def switch() -> None:
            _latex._REWRITES[:] = [rewrite for rewrite in _latex._REWRITES if rewrite[0].pattern != pattern]
            forget()

        return switch

    for pattern, _ in _latex._REWRITES:
        yield Rule(f"latex rewrites {pattern.pattern}", off(pattern.pattern))


def find() -> list[Rule]:
    """All of them; the names are different."""
    found = list(_rewrites())
    for module in modules():
        label = module.__name__.rpartition("._")[2]
        found += [*_tables(module, label), *_expressions(module, label), *_functions(module, label)]
    return list({rule.name: rule for rule in found}.values())


def remember_parsed() -> None:
    """math-verify's parser gives the same for the same text: asked once for all rules."""
    from verl_ext.rewards import _expressions

    parse, parsed = _expressions._parsed, {}

    def remembered(text: str) -> Any:
        if text not in parsed:
            parsed[text] = parse(text)
        return parsed[text]

    remembered.__module__ = _expressions.__name__
    _expressions._parsed = remembered

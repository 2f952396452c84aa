r"""The rules of the reader of answers, found in its modules, each with a way to switch it off in this process.

A rule is an entry of `_latex._REWRITES`; a spelling, character or unit of a table, with all others that mean the same;
a regular expression (switched off, it matches nothing); a function that says whether something is so (switched off:
no), that finds something (switched off: nothing), or changes an answer or a text (switched off: as it was).
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
_LEFT_ALONE = ("grade", "task", "kind", "warm_up", "canonical", "key", "begin", "spend", "expression", "read")
"""Without them there is no reader."""


@dataclass(frozen=True)
class Rule:
    """A rule by name.

    Attributes:
        name: its module, and what it is there.
        switch_off: changes the loaded modules.
        watch: changes them to call its argument where the rule does something; None for entries of tables.
        entries: of a table, what a text has to hold for the rule to do something.
    """

    name: str
    switch_off: Callable[[], None]
    watch: Callable[[Callable[[], None]], None] | None = None
    entries: tuple[str, ...] = ()


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


def _replace(old: Any, new: Any) -> None:
    """Change every name that stands for `old`, in whatever module."""
    for module in modules():
        for name in [name for name, value in vars(module).items() if value is old]:
            setattr(module, name, new)
    forget()


class _Watched:
    """A regular expression that says when it matches."""

    def __init__(self, pattern: re.Pattern[str], hit: Callable[[], None]) -> None:
        self._pattern, self._hit = pattern, hit

    def __getattr__(self, name: str) -> Any:
        wanted = getattr(self._pattern, name)
        if not callable(wanted):
            return wanted

        def called(*arguments: Any, **options: Any) -> Any:
            result = wanted(*arguments, **options)
            if name == "finditer":
                result = list(result)
            if (result != arguments[1]) if name == "sub" else (len(result) > 1) if name == "split" else bool(result):
                self._hit()
            return result

        return called


def _nothing_as(annotation: str, function: Callable[..., Any]) -> Callable[..., Any] | None:
    """What a switched off function does."""
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
            yield Rule(
                f"{label}: {name}()",
                lambda value=value, instead=instead: _replace(value, instead),
                lambda hit, value=value, instead=instead: _replace(value, _watched(value, instead, hit)),
            )


def _watched(function: Callable[..., Any], instead: Callable[..., Any], hit: Callable[[], None]) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if result != instead(*arguments, **options):
            hit()
        return result

    return called


def _expressions(module: ModuleType, label: str) -> Iterator[Rule]:
    before = [other for other in modules() if other.__name__ < module.__name__]
    for name, value in vars(module).items():
        imported = any(value is known for other in before for known in vars(other).values())
        if isinstance(value, re.Pattern) and not imported:
            yield Rule(
                f"{label}: {name}",
                lambda value=value: _replace(value, _NEVER),
                lambda hit, value=value: _replace(value, _Watched(value, hit)),
            )


def _tables(module: ModuleType, label: str) -> Iterator[Rule]:
    def without(table: dict[Any, Any], keys: list[Any]) -> None:
        for entry in keys:
            table.pop(entry, None)
        forget()

    for name, table in vars(module).items():
        if not isinstance(table, dict) or not name.startswith("_") or name.startswith("__") or len(table) < 5:
            continue
        groups: dict[str, list[Any]] = {}
        for entry, meaning in table.items():
            same = meaning[1:] if isinstance(meaning, tuple) else meaning
            groups.setdefault(getattr(same, "__name__", repr(same)), []).append(entry)
        for keys in groups.values():
            entries = tuple(chr(entry) if isinstance(entry, int) else str(entry) for entry in keys)
            off = lambda table=table, keys=keys: without(table, keys)  # noqa: E731
            yield Rule(f"{label}: {name} {' '.join(entries)}", off, entries=entries)


def _rewrites() -> Iterator[Rule]:
    from verl_ext.rewards import _latex

    def change(pattern: re.Pattern[str], new: list[Any]) -> None:
        place = next(index for index, (known, _) in enumerate(_latex._REWRITES) if known.pattern == pattern.pattern)
        _latex._REWRITES[place : place + 1] = [(new[0], _latex._REWRITES[place][1])] if new else []
        forget()

    for pattern, _ in _latex._REWRITES:
        yield Rule(
            f"latex rewrites {pattern.pattern}",
            lambda pattern=pattern: change(pattern, []),
            lambda hit, pattern=pattern: change(pattern, [_Watched(pattern, hit)]),
        )


def find() -> list[Rule]:
    """All of them; the names are different."""
    found = list(_rewrites())
    for module in modules():
        label = module.__name__.rpartition("._")[2]
        found += [*_tables(module, label), *_expressions(module, label), *_functions(module, label)]
    return list({rule.name: rule for rule in found}.values())


def watch(rules: list[Rule], hit: Callable[[str], None]) -> None:
    """From now on, call `hit` with the name of every rule that does something; entries of tables left out."""
    for rule in rules:
        if rule.watch is not None:
            rule.watch(lambda name=rule.name: hit(name))  # type: ignore[misc]


def mentions(rule: Rule, text: str) -> bool:
    """Whether a text holds an entry of the rule's table."""
    plain = text.lower()
    return any(entry.lower().strip("\\") in plain for entry in rule.entries)


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

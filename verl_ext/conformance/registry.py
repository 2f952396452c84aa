"""Which methods there are to test: everything in verl's registries, and what an import adds to them."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.conformance import clipping_properties, declared, number_properties  # noqa: F401 - they fill the table
from verl_ext.conformance.batch_properties import LOSS_PROPERTIES
from verl_ext.conformance.estimator_properties import ESTIMATOR_PROPERTIES
from verl_ext.conformance.estimators import Estimator
from verl_ext.conformance.properties import Property
from verl_ext.conformance.subjects import Loss


@dataclass(frozen=True)
class Kind:
    """A registry of verl, the class that calls its entries, and the properties of those."""

    title: str
    plural: str
    subject: Any
    columns: Mapping[str, Property]


# From how a batch is cut, over what is optimised, to how it is computed.
_ORDER = (
    "micro_batches",
    "padding",
    "row_order",
    "masked_tokens",
    "empty_rows",
    "extreme_values",
    "on_policy",
    "sign",
    "off_policy",
    "clipping",
    "constants",
    "low_precision",
    "determinism",
    "metrics",
    "rollout_weights",
    "aggregation",
    "host_syncs",
)
assert set(_ORDER) == LOSS_PROPERTIES.keys()

KINDS = {
    "loss": Kind("Policy losses", "losses", Loss, {key: LOSS_PROPERTIES[key] for key in _ORDER}),
    "estimator": Kind("Advantage estimators", "estimators", Estimator, ESTIMATOR_PROPERTIES),
}


def registered(kind: str) -> MutableMapping[str, Any]:
    """verl's registry of a kind, with verl_ext's methods in it."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    from verl_ext.plugin import register

    register()
    return POLICY_LOSS_REGISTRY if kind == "loss" else ADV_ESTIMATOR_REGISTRY


def subjects(kind: str, names: Iterable[str] = (), clip: str = "") -> list[Any]:
    """The methods of a kind, ours first; those of these names if any are given.

    Raises:
        ValueError: `clip`, the clip form of losses that declare none, is no form, or one of them declares its own.
    """
    wanted, found = set(names), registered(kind)
    more = {"clip": clip} if clip and kind == "loss" else {}
    made = [KINDS[kind].subject(name, found[name], **more) for name in list(found) if not wanted or name in wanted]
    return sorted(made, key=lambda subject: subject.origin != "verl_ext")


def check_names(names: Iterable[str], kinds: Iterable[str]) -> None:
    """Raise ValueError where a name is in none of the registries; all such names at once."""
    known = sorted({name for kind in kinds for name in registered(kind)})
    faults = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            faults.append(f"'{name}' is not in verl's registry; {hint}")
    if faults:
        raise ValueError("; ".join(faults) + " (a method of your own: --import the module that registers it)")


def check_properties(keys: Iterable[str], kinds: Iterable[str]) -> None:
    """Raise ValueError where a property does not exist; all such keys at once."""
    known = [key for kind in kinds for key in KINDS[kind].columns]
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise ValueError(f"no property {', '.join(map(repr, unknown))}; there are {', '.join(known)}")


@contextmanager
def imported(names: Iterable[str]) -> Iterator[None]:
    """Import modules that register methods: dotted names, looked up from the working directory too, or .py files.

    Afterwards the search path, verl's registries, the declarations and the modules of the working directory are as
    they were before.

    Raises:
        ValueError: a module cannot be imported, a file is not there, or another module of its name is loaded.
    """
    from verl_ext import modules, plugin

    tables = [registered(kind) for kind in KINDS]
    folder, path, loaded = Path.cwd(), list(sys.path), set(sys.modules)
    with _restored(*tables, *declared.TABLES.values(), plugin.POLICY_LOSSES, plugin.ESTIMATORS):
        try:
            sys.path.insert(0, str(folder))
            for name in names:
                if name.endswith(".py"):
                    _import_file(Path(name).resolve())
                else:
                    modules.load([name])
            yield
        finally:
            sys.path[:] = path
            for name in sys.modules.keys() - loaded:
                if folder in Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
                    del sys.modules[name]


@contextmanager
def _restored(*tables: MutableMapping[str, Any]) -> Iterator[None]:
    """What the tables hold afterwards is what they held before."""
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)


def _import_file(path: Path) -> None:
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return
    if loaded is not None:
        raise ValueError(f"--import {path.name}: a module named {path.stem} is already loaded; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"--import {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)

"""What `verl-ext losses` shows: every policy loss and estimator in verl's registries, and what ours take.

To look at verl's registries takes five seconds of imports, so that a static table is kept beside this file.
``python -m verl_ext.catalogue`` writes it anew; a test compares it with `entries`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from verl_ext import modules

if TYPE_CHECKING:
    from verl_ext import plugin

FILE = Path(__file__).with_suffix(".json")
KINDS = {"losses": "Policy losses", "estimators": "Advantage estimators"}


def kept() -> dict[str, list[dict[str, Any]]]:
    """The content of the file."""
    found: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def choose(names: Collection[str], imports: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """As `kept`, of methods with these names only; all of them where none is given.

    Args:
        names: of methods.
        imports: modules that add methods, or .py files; with them, or with an installed package that adds methods,
            verl's registries are looked at.

    Raises:
        ValueError: naming each that there is not, with its nearest neighbour.
    """
    from verl_ext.hyper import nearest

    found = with_imports(imports) if imports or modules.installed() else kept()
    own = {row["name"] for kind in KINDS for row in found[kind]}
    others = {name for other in found["other"] for name in other["names"]}
    unknown = [name for name in names if name not in own | others]
    if unknown:
        raise ValueError(
            "\n".join(f"{name}: no such loss or estimator{nearest(name, own | others)}" for name in unknown)
        )
    if not names:
        return found
    chosen = {kind: [row for row in found[kind] if row["name"] in names] for kind in KINDS}
    rest = [{**other, "names": [name for name in other["names"] if name in names]} for other in found["other"]]
    return {**chosen, "other": [other for other in rest if other["names"]]}


def with_imports(imports: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """As `entries`, with the methods of these modules."""
    from verl_ext.conformance.registry import imported

    with imported(imports):
        return entries()


def entries() -> dict[str, list[dict[str, Any]]]:
    """JSON-able: `losses` and `estimators` of verl_ext, and the names that are verl's own."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    from verl_ext import plugin

    plugin.register()
    losses, estimators = plugin.POLICY_LOSSES, plugin.ESTIMATORS
    return {
        "losses": [{**_entry(loss), "aggregations": list(loss.aggregations)} for loss in losses.values()],
        "estimators": [_entry(estimator) for estimator in estimators.values()],
        "other": [
            {"kind": kind, "names": sorted(str(name) for name in registry if name not in ours)}
            for kind, registry, ours in (
                ("loss", POLICY_LOSS_REGISTRY, losses),
                ("estimator", ADV_ESTIMATOR_REGISTRY, estimators),
            )
        ],
    }


def _entry(method: plugin.Method) -> dict[str, Any]:
    config = method.config_type()
    defaults, ranges = config.defaults(), config.ranges()
    return {
        "name": method.name,
        "title": method.title,
        "arxiv": method.arxiv,
        "reads": list(method.reads),
        "needs": list(method.needs_with(defaults)),
        "config": method.config_path,
        "where": config.where,
        "hyper_parameters": {name: {"default": defaults[name], "range": ranges[name]} for name in defaults},
    }


def show(console: Console, names: Sequence[str] = (), imports: Collection[str] = ()) -> None:
    """Print the tables; arguments as of `choose`.

    Raises:
        ValueError: of `choose`.
    """
    found = choose(names, imports)
    for kind, title in KINDS.items():
        if found[kind]:
            console.print(_table(title, found[kind]))
    for other in found["other"]:
        plural = {"loss": "losses", "estimator": "estimators"}[other["kind"]]
        console.print(f"{plural} of verl's own: {', '.join(other['names'])}", style="dim")


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    for heading in ("name", "paper", "token data", "hyper-parameter = default: range"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        optional = [name for name in row["reads"] if name not in row["needs"]]
        data = row["needs"] + [f"({name})" for name in optional]
        keys = [f"{name} = {spec['default']!r}: {spec['range']}" for name, spec in row["hyper_parameters"].items()]
        if "aggregations" in row:
            keys.append(f"[dim]loss_agg_mode: {', '.join(row['aggregations'])}[/dim]")
        table.add_row(
            f"[bold]{row['name']}[/bold]", f"{row['title']}\n{_arxiv(row)}".strip(), "\n".join(data), "\n".join(keys)
        )
    table.caption = "token data in brackets is read when there is any, or under other options"
    return table


def _arxiv(row: Mapping[str, Any]) -> str:
    return f"arXiv {row['arxiv']}" if row["arxiv"] else ""


if __name__ == "__main__":
    FILE.write_text(json.dumps(entries(), indent=1) + "\n", encoding="utf-8")

"""What `verl-ext losses` shows: every policy loss and estimator in verl's registries, and what ours take."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from verl_ext import plugin


def entries() -> dict[str, list[dict[str, Any]]]:
    """JSON-able: `losses` and `estimators` of verl_ext, and the names that are verl's (or another plugin's) own."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

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
        "needs": list(method.needs(**defaults)),
        "config": f"verl_ext.config.{method.config_class}",
        "where": config.where,
        "hyper_parameters": {name: {"default": defaults[name], "range": ranges[name]} for name in defaults},
    }


def show(console: Console) -> None:
    """Print the tables."""
    found = entries()
    for kind, title in (("losses", "Policy losses"), ("estimators", "Advantage estimators")):
        console.print(_table(title, found[kind]))
    for other in found["other"]:
        plural = {"loss": "losses", "estimator": "estimators"}[other["kind"]]
        console.print(f"{plural} of verl itself or of other plugins: {', '.join(other['names'])}", style="dim")


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
            f"[bold]{row['name']}[/bold]", f"{row['title']}\narXiv {row['arxiv']}", "\n".join(data), "\n".join(keys)
        )
    table.caption = "token data in brackets is read when there is any, or under other options"
    return table

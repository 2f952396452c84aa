"""What there is: one record for a cluster and one for each of its nodes, as they travel in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LOCAL = "local"
"""The address of this machine without Ray."""


@dataclass(frozen=True)
class Seen:
    """What the probe sees on a node; `verl_ext.checks.probe.look` makes it.

    Attributes:
        host: its name.
        folder: the working directory of Ray's workers, from which relative paths count.
        python: version.
        versions: distribution -> version, None where it is not installed.
        devices: names of the GPUs that the driver reports; None where there is no driver to ask.
        limits: ``open_files``, ``locked_memory`` (bytes), ``processes``: the soft limits, None for unlimited.
        memory: bytes that are free for new processes.
        shared_memory: free bytes of /dev/shm.
        disk: ``folder`` of the checkpoints, ``free`` bytes of its file system, ``writable``.
        paths: one for each model, data file and reward function asked for: ``key``, ``path``, ``fault`` or None, and of
            a model ``parameters``, of data ``columns``.
        plugin: ``error`` or None, ``version``, ``losses`` and ``estimators`` in verl's registries, ``asked``: the value
            of VERL_USE_EXTERNAL_PLUGINS.
    """

    host: str
    folder: str
    python: str
    versions: dict[str, str | None]
    devices: list[str] | None
    limits: dict[str, int | None]
    memory: int
    shared_memory: int
    disk: dict[str, Any]
    paths: list[dict[str, Any]]
    plugin: dict[str, Any]


@dataclass(frozen=True)
class Node:
    """A node as Ray sees it, and what the probe saw on it.

    Attributes:
        address: of the node.
        total: resources that Ray counts, for instance ``{"GPU": 8, "CPU": 96}``; ``object_store_memory`` is in bytes.
        free: of these, what nobody holds now.
        seen: None where the probe did not answer.
        fault: why it did not.
        clock: seconds by which its clock is ahead of the one that asked; None where unknown.
        doubt: half the time that reading the clock took.
    """

    address: str
    total: dict[str, float] = field(default_factory=dict)
    free: dict[str, float] = field(default_factory=dict)
    seen: Seen | None = None
    fault: str | None = None
    clock: float | None = None
    doubt: float = 0.0


@dataclass(frozen=True)
class Found:
    """A cluster.

    Attributes:
        address: of Ray; ``local`` for this machine without Ray.
        error: why Ray was not reached; there are no nodes then.
        nodes: those that can run something.
        dead: how many nodes Ray has lost.
        placed: whether Ray granted the placement groups; None where it was not asked.
    """

    address: str
    error: str | None = None
    nodes: list[Node] = field(default_factory=list)
    dead: int = 0
    placed: bool | None = None

    @property
    def local(self) -> bool:
        return self.address == LOCAL

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Found:
        """The inverse of ``asdict``.

        Example:
            >>> found = Found("local", nodes=[Node("here", {"CPU": 2.0})])
            >>> Found.from_data(json.loads(found.to_json())) == found
            True
        """
        nodes = [Node(**{**node, "seen": Seen(**node["seen"]) if node["seen"] else None}) for node in data["nodes"]]
        return Found(**{**data, "nodes": nodes})

"""A healthy cluster of two nodes with eight GPUs each, and ways to break it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from verl_ext.cluster.preflight import Finding, Found, Node, Seen, Wanted
from verl_ext.cluster.preflight.wanted import Group

GIB = 2**30
LOSSES, ESTIMATORS = ("espo", "sspo"), ("gtpo",)

WANTED = Wanted(
    device="cuda",
    nodes=2,
    groups=(Group("training", number=2, gpus=8, cpus_a_gpu=3),),
    cpus=11,
    tested={"python": ("3.11",), "vllm": ("0.24.0",), "torch": ("2.11.0",), "verl": ("0.9.1",)},
    losses=LOSSES,
    estimators=ESTIMATORS,
    plugin="0.1.0",
    models={"actor_rollout_ref.model.path": "/models/m"},
    data={"data.train_files": "/data/train.parquet"},
    columns=("prompt", "data_source", "reward_model"),
    checkpoints="/checkpoints",
    offloaded=4.0,
    shared_memory=GIB,
)

SEEN = Seen(
    host="a",
    folder="/home/ray",
    python="3.11.9",
    versions={"vllm": "0.24.0", "torch": "2.11.0+cu130", "verl": "0.9.1"},
    devices=["H100"] * 8,
    limits={"open_files": 1048576, "locked_memory": None, "processes": None},
    memory=500 * GIB,
    shared_memory=64 * GIB,
    disk={"folder": "/checkpoints", "free": 900 * GIB, "writable": True},
    paths=[
        {"key": "actor_rollout_ref.model.path", "path": "/models/m", "fault": None, "parameters": 10**9, "hub": False},
        {
            "key": "data.train_files",
            "path": "/data/train.parquet",
            "fault": None,
            "columns": ["prompt", "data_source", "reward_model", "reward_model.ground_truth"],
            "hub": False,
        },
    ],
    plugin={"error": None, "version": "0.1.0", "losses": [*LOSSES, "vanilla"], "estimators": [*ESTIMATORS, "grpo"],
            "asked": None},
)  # fmt: skip

_ROOM = {"GPU": 8.0, "CPU": 64.0, "object_store_memory": 100.0 * GIB}


def node(address: str, **changes: Any) -> Node:
    return replace(Node(address, _ROOM, _ROOM, replace(SEEN, host=address), clock=0.0, doubt=0.01), **changes)


def seen(**changes: Any) -> Seen:
    return replace(SEEN, **changes)


def cluster(first: Node | None = None, second: Node | None = None, **changes: Any) -> Found:
    nodes = [first or node("10.0.0.1"), second or node("10.0.0.2")]
    return replace(Found("10.0.0.1:6379", nodes=nodes, placed=True), **changes)


def faults(findings: list[Finding], level: str = "fault") -> list[str]:
    return [finding.sentence for finding in findings if finding.level == level]

"""The process that asks Ray, or this machine: ``python -m verl_ext.cluster.preflight.child REQUEST ANSWER``."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_ext.cluster.preflight import probe
from verl_ext.cluster.preflight.found import LOCAL, Found, Node, Seen
from verl_ext.cluster.preflight.placement import unplaced
from verl_ext.cluster.preflight.wanted import Group

_CONNECT_S = 5.0
_PLACEMENT_S = 10.0
_CLOCK_ROUNDS = 3


def main(asked: str, answer: str) -> None:
    """The child: read the request, write the answer in one piece."""
    what = json.loads(Path(asked).read_text())
    address = what["address"] if what["address"] == LOCAL else resolve(what["address"])
    found = here(what) if address == LOCAL else cluster(what, address)
    unfinished = Path(f"{answer}.part")
    unfinished.write_text(found.to_json())
    unfinished.replace(answer)


def resolve(address: str | None) -> str:
    """As ``ray.init`` does: the address given, RAY_ADDRESS, or the latest cluster on this machine; else ``local``."""
    if address not in (None, "auto"):
        return str(address)
    # verl's trainer leaves the choice to the same function inside ray.init.
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address(address) or LOCAL
    except (ConnectionError, ValueError):
        return str(address)


def here(what: Mapping[str, Any]) -> Found:
    """This machine, as a Ray that the run starts would count it."""
    os.environ.update(what["runtime_env"].get("env_vars") or {})
    seen = Seen(**probe.look(what["probe"]))
    told = what["resources"]
    counts = {
        "CPU": float(told.get("CPU") or len(os.sched_getaffinity(0))),
        "GPU": float(told.get("GPU") or visible(seen.devices or [])),
    }
    return Found(LOCAL, nodes=[Node(seen.host, counts, counts, seen)])


def visible(devices: Sequence[str]) -> int:
    """GPUs that this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(devices) if chosen is None else min(len(devices), len([one for one in chosen.split(",") if one]))


def cluster(what: Mapping[str, Any], address: str) -> Found:
    """A running Ray: its nodes, one probe on each, the placement groups, the clocks."""
    deadline = time.monotonic() + what["limit_s"]
    error = unreachable(address)
    if error is not None:
        return Found(address, error=error)
    import ray
    from ray._private.state import available_resources_per_node

    try:
        ray.init(
            address=address, runtime_env=what["runtime_env"] or None, log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
    # Versions of Python or Ray that differ, a refused runtime_env: all of it is what was asked.
    except Exception as refused:
        return Found(address, error=f"{type(refused).__name__}: {_line(refused)}")
    try:
        listed = ray.nodes()
        free = available_resources_per_node()
        able = [node for node in listed if node["Alive"] and (_has(node, "CPU") or _has(node, "GPU"))]
        pending = {node["NodeID"]: _pinned(probe.look, node["NodeID"]).remote(what["probe"]) for node in able}
        placed = place(what["groups"], [free.get(node["NodeID"], {}) for node in able], deadline)
        answers = {name: _answer(reference, deadline) for name, reference in pending.items()}
        nodes = [
            _node(name, node, free.get(node["NodeID"], {}), answers[node["NodeID"]], deadline)
            for name, node in zip(labels(able), able, strict=True)
        ]
        return Found(address, nodes=nodes, dead=sum(not node["Alive"] for node in listed), placed=placed)
    finally:
        ray.shutdown()


def unreachable(address: str) -> str | None:
    """Why nothing can be asked there; found in seconds, where ``ray.init`` waits for a minute."""
    if "://" in address:
        return "neither Ray Client nor the job server can tell what each node has free; give the head's host:port"
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return "no Ray there: not an address of the form host:port"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        return f"nothing answers: {error}"
    return None


def place(groups: Sequence[Mapping[str, Any]], free: Sequence[Mapping[str, float]], deadline: float) -> bool | None:
    """Ask Ray for the placement groups as verl does, and give them back; None where they cannot fit anyway."""
    wanted = [Group(**group) for group in groups]
    if not wanted or unplaced(wanted, free):
        return None
    from ray.util.placement_group import placement_group, remove_placement_group

    until = min(deadline, time.monotonic() + _PLACEMENT_S)
    held = [
        placement_group([{"CPU": group.cpus_a_gpu, "GPU": 1}] * group.gpus, strategy="STRICT_PACK")
        for group in wanted
        for _ in range(group.number)
    ]
    try:
        return all(group.wait(timeout_seconds=max(until - time.monotonic(), 0)) for group in held)
    finally:
        for group in held:
            remove_placement_group(group)


def _pinned(function: Callable[..., Any], node: str) -> Any:
    """A task of that node; it holds no CPU, so that it starts on a busy one too."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # By value, as verl_ext may be missing there.
    cloudpickle.register_pickle_by_value(probe)
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=where)


def _answer(reference: Any, deadline: float) -> tuple[Any, str | None]:
    """A task's result, or why there is none."""
    import ray

    started = time.monotonic()
    try:
        return ray.get(reference, timeout=max(deadline - started, 0.0)), None
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return None, "no answer in time"
    except ray.exceptions.RayError as error:
        return None, f"{type(error).__name__}: {_line(error)}"


def labels(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each node: its address, and where several share one also what Ray calls it."""
    addresses = [str(node["NodeManagerAddress"]) for node in nodes]
    return [
        address if addresses.count(address) == 1 else f"{address} ({_own_name(node)})"
        for address, node in zip(addresses, nodes, strict=True)
    ]


def _own_name(node: Mapping[str, Any]) -> str:
    name = str(node["NodeName"])
    return name if name != node["NodeManagerAddress"] else str(node["NodeID"])[:8]


def _node(
    name: str, node: Mapping[str, Any], free: Mapping[str, float], answer: tuple[Any, str | None], deadline: float
) -> Node:
    seen, fault = answer
    if seen is None:
        return Node(name, dict(node["Resources"]), dict(free), fault=fault)
    clock, doubt = read_clock(node["NodeID"], deadline)
    return Node(name, dict(node["Resources"]), dict(free), Seen(**seen), clock=clock, doubt=doubt)


def read_clock(node: str, deadline: float) -> tuple[float | None, float]:
    """How far a node's clock is ahead of this one, and half the time that the best reading took.

    A reading at t between t0 and t1 of our clock gives the offset t - (t0 + t1) / 2, give or take (t1 - t0) / 2.
    """
    readings = []
    task = _pinned(probe.clock, node)
    for _ in range(_CLOCK_ROUNDS):
        before = time.time()
        there, fault = _answer(task.remote(), deadline)
        after = time.time()
        if fault is not None:
            break
        readings.append(((after - before) / 2, there - (before + after) / 2))
    if not readings:
        return None, 0.0
    doubt, offset = min(readings)
    return offset, doubt


def _has(node: Mapping[str, Any], kind: str) -> bool:
    return node["Resources"].get(kind, 0) > 0


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The nodes of a running Ray, asked all at once; each answer is told as it comes.

A node gets its tasks one after another: look, the clock three times, verl's registries. The first takes no more than
the start of a worker; the last imports verl and may take half a minute. They hold no CPU, so that they start on a busy
node as well, and are sent by value, as verl_ext may be missing there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from verl_ext.checks import probe
from verl_ext.cluster.preflight.asking import NOT_ANSWERED
from verl_ext.cluster.preflight.found import Found, Node, Seen
from verl_ext.cluster.preflight.placement import unplaced
from verl_ext.cluster.preflight.wanted import Group

_PLACEMENT_S = 10.0
_CLOCK_ROUNDS = 3
LATE = f"{NOT_ANSWERED} in time"
SILENT: dict[str, Any] = {"error": LATE, "version": None, "losses": [], "estimators": [], "asked": None}
"""Of the registries, as long as nothing is known."""


@dataclass
class Asked:
    """One node and what it has answered so far.

    Attributes:
        name: see `labels`.
        node: Ray's record of it.
        free: resources that nobody holds.
        seen: the probe's answer, without the registries.
        plugin: the registries.
        fault: why there is no answer.
        readings: of the clock: half the time it took, and the offset.
        sent: when the last task was sent, by this machine's clock.
    """

    name: str
    node: Mapping[str, Any]
    free: Mapping[str, float]
    seen: dict[str, Any] | None = None
    plugin: dict[str, Any] = field(default_factory=lambda: SILENT)
    fault: str = LATE
    readings: list[tuple[float, float]] = field(default_factory=list)
    sent: float = 0.0

    def record(self) -> Node:
        total, free = dict(self.node["Resources"]), dict(self.free)
        if self.seen is None:
            return Node(self.name, total, free, fault=self.fault)
        doubt, offset = min(self.readings, default=(0.0, None))
        return Node(self.name, total, free, Seen(**self.seen, plugin=self.plugin), clock=offset, doubt=doubt)

    def take(self, step: str, answer: Any, fault: str | None, received: float) -> bool:
        """Note an answer; whether the node can be asked further.

        A clock that shows t, asked at t0 and answering at t1, is ahead by t - (t0 + t1) / 2, give or take
        (t1 - t0) / 2.
        """
        if step == "look":
            self.seen, self.fault = answer, fault or LATE
            return fault is None
        if step == "registries":
            self.plugin = answer if fault is None else {**SILENT, "error": fault}
        elif fault is None:
            self.readings.append(((received - self.sent) / 2, answer - (self.sent + received) / 2))
        return True


def survey(what: Mapping[str, Any], tell: Callable[[Found], None], found: Callable[..., Found]) -> None:
    """Ask every node; Ray is connected.

    Args:
        what: the request.
        tell: takes what is known, after each answer that matters.
        found: makes a `Found` of nodes, `dead` and `placed`.
    """
    import ray
    from ray._private.state import available_resources_per_node

    listed, free = ray.nodes(), available_resources_per_node()
    able = [node for node in listed if node["Alive"] and (_has(node, "CPU") or _has(node, "GPU"))]
    nodes = [
        Asked(name, node, free.get(node["NodeID"], {})) for name, node in zip(labels(able), able, strict=True)
    ]  # fmt: skip
    placed: bool | None = None
    dead = len([node for node in listed if not node["Alive"]])

    def report() -> None:
        tell(found(nodes=[node.record() for node in nodes], dead=dead, placed=placed))

    report()
    with ThreadPoolExecutor(1) as pool:
        placing = pool.submit(place, what["groups"], [node.free for node in nodes], what["deadline"])
        ask(nodes, what, report)
        placed = placing.result()
    report()


def ask(nodes: Sequence[Asked], what: Mapping[str, Any], report: Callable[[], None]) -> None:
    """Every step of every node, until all are done or the time is over."""
    import ray

    steps = ("look", *("clock",) * _CLOCK_ROUNDS, "registries")
    pending = {_send(node, "look", what): (node, 0) for node in nodes}
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=max(what["deadline"] - time.monotonic(), 0.0))
        received = time.time()
        if not ready:
            break
        node, number = pending.pop(ready[0])
        going = node.take(steps[number], *_answer(ready[0]), received)
        if steps[number] != "clock":
            report()
        if going and number + 1 < len(steps):
            pending[_send(node, steps[number + 1], what)] = (node, number + 1)
    for reference in pending:
        ray.cancel(reference, force=True)


def _send(node: Asked, step: str, what: Mapping[str, Any]) -> Any:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(probe)
    where = NodeAffinitySchedulingStrategy(node.node["NodeID"], soft=False)
    function = {"look": probe.look, "clock": probe.clock, "registries": probe.plugin}[step]
    task = ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=where)
    node.sent = time.time()
    return task.remote(what["probe"]) if step == "look" else task.remote()


def _answer(reference: Any) -> tuple[Any, str | None]:
    """The result of a task that has ended, or why there is none."""
    import ray

    try:
        return ray.get(reference), None
    except ray.exceptions.RayError as error:
        return None, f"{type(error).__name__}: {last_line(error)}"


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


def _has(node: Mapping[str, Any], kind: str) -> bool:
    return node["Resources"].get(kind, 0) > 0


def last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__

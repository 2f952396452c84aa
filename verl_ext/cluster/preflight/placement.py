"""Whether verl's placement groups fit on the nodes, by arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from verl_ext.cluster.preflight.finding import CLUSTER, FAULT, OK, Finding, count
from verl_ext.cluster.preflight.found import Found, Node
from verl_ext.cluster.preflight.wanted import Group, Wanted


def unplaced(groups: Sequence[Group], nodes: Sequence[Mapping[str, float]]) -> list[Group]:
    """Groups that find no node, one entry for each, the largest placed first.

    A group lies on one node. Each goes to the node on which it leaves the fewest GPUs, so that small groups do not take
    the room of large ones that come later.

    Args:
        groups: what verl asks for.
        nodes: ``GPU`` and ``CPU`` of each.

    Example:
        >>> eight = Group("training", number=2, gpus=8, cpus_a_gpu=3)
        >>> len(unplaced([eight], [{"GPU": 8, "CPU": 64}, {"GPU": 8, "CPU": 16}]))
        1
    """
    room = [[node.get("GPU", 0.0), node.get("CPU", 0.0)] for node in nodes]
    single = [group for group in groups for _ in range(group.number)]
    absent = []
    for group in sorted(single, key=lambda one: (one.gpus, one.cpus), reverse=True):
        fitting = [one for one in room if one[0] >= group.gpus and one[1] >= group.cpus]
        if not fitting:
            absent.append(group)
            continue
        best = min(fitting, key=lambda one: (one[0], one[1]))
        best[0] -= group.gpus
        best[1] -= group.cpus
    return absent


def placement_findings(wanted: Wanted, found: Found) -> list[Finding]:
    """GPUs of the whole cluster, CPUs of the whole cluster, and the groups."""
    if not wanted.groups:
        return []
    shapes = ", ".join(
        f"{group.number} x ({count(group.gpus, 'GPU')}, {count(group.cpus, 'CPU')} on one node)"
        for group in wanted.groups
    )
    return [
        _sum(wanted.gpus, "GPU", found),
        _sum(wanted.all_cpus, "CPU", found),
        _placement(wanted, found, shapes),
    ]


def _sum(need: int, kind: str, found: Found) -> Finding:
    total, free = (sum(part.get(kind, 0.0) for part in side) for side in _sides(found))
    told = f"{total:g}, {free:g} free" if not found.local else f"{total:g}"
    told += f" ({', '.join(f'{node.address}: {node.total.get(kind, 0.0):g}' for node in found.nodes[:8])})"
    if total < need:
        lost = f", {count(found.dead, 'node')} lost" if found.dead else ""
        remedy = f"verl would wait for ever; add nodes, or ask for fewer {kind}s"
        return Finding(FAULT, f"{kind}s", CLUSTER, str(need), told + lost, remedy)
    if free < need:
        return Finding(FAULT, f"{kind}s", CLUSTER, str(need), told, "others hold them; see `ray status` and wait")
    return Finding(OK, f"{kind}s", CLUSTER, str(need), told)


def _placement(wanted: Wanted, found: Found, shapes: str) -> Finding:
    name = "placement groups"
    total, free = _sides(found)
    for side, remedy in (
        (total, "no node is large enough; change trainer.nnodes and trainer.n_gpus_per_node, or start Ray with more "
         "--num-cpus"),
        (free, "others hold the resources; see `ray status` and wait"),
    ):  # fmt: skip
        absent = unplaced(wanted.groups, side)
        if absent:
            largest = f"{count(absent[0].gpus, 'GPU')} and {count(absent[0].cpus, 'CPU')}"
            told = f"no node for {len(absent)} of them ({absent[0].purpose}: {largest}); {_rooms(found.nodes, side)}"
            return Finding(FAULT, name, CLUSTER, shapes, told, remedy)
    if found.placed is False:
        remedy = "Ray holds something back that its counts do not show; see `ray status`"
        return Finding(FAULT, name, CLUSTER, shapes, "not granted by Ray in time", remedy)
    told = "granted by Ray" if found.placed else "they fit" if found.local else "they fit; Ray was not asked"
    return Finding(OK, name, CLUSTER, shapes, told)


def _sides(found: Found) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    return [node.total for node in found.nodes], [node.free for node in found.nodes]


def _rooms(nodes: Sequence[Node], side: Sequence[Mapping[str, float]]) -> str:
    told = [
        f"{node.address} has {room.get('GPU', 0.0):g} GPUs, {room.get('CPU', 0.0):g} CPUs"
        for node, room in zip(nodes, side, strict=True)
    ]
    return ", ".join(told[:8])

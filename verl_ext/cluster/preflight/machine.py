"""Checks of each machine: GPUs, limits, memory, disk, clock."""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.cluster.preflight.finding import CLUSTER, FAULT, GIB, OK, WARN, Finding, size
from verl_ext.cluster.preflight.found import Node, Seen
from verl_ext.cluster.preflight.wanted import Wanted

LEAST_OPEN_FILES, OPEN_FILES = 4096, 65536
"""Ray warns below the first; Ray's and vLLM's sockets on a node of eight GPUs want the second."""
LEAST_PROCESSES, PROCESSES = 4096, 32768
"""Threads count as processes: some hundreds for each of Ray's, torch's and vLLM's processes."""
LEAST_OBJECT_STORE, OBJECT_STORE = 75 * 2**20, GIB
"""Ray starts with no less than the first."""
LEAST_MEMORY = 2 * GIB
CLOCK_WARN_S, CLOCK_FAULT_S = 1.0, 30.0
"""Logs and time-outs of several nodes are compared; with minutes apart signed requests to object stores fail."""
CHECKPOINT_BYTES = 12.0
"""A parameter's bytes in a checkpoint: weight and Adam's two moments, all float32."""


def machine_findings(wanted: Wanted, node: Node) -> list[Finding]:
    """Everything about one machine that answered."""
    assert node.seen is not None
    seen = node.seen
    parameters = largest_model(seen)
    found = [
        *device_findings(wanted, node),
        limit_finding("open files", node, LEAST_OPEN_FILES, OPEN_FILES),
        limit_finding("processes", node, LEAST_PROCESSES, PROCESSES),
        locked_finding(wanted, node),
        memory_finding(wanted, node, parameters),
        shared_finding(wanted, node),
    ]
    if "object_store_memory" in node.total:
        found.append(store_finding(node))
    if wanted.checkpoints is not None:
        found.append(disk_finding(wanted, node, parameters))
    return found


def largest_model(seen: Seen) -> int | None:
    """Parameters of the largest model on this node's disk; None where none is there."""
    return max((path["parameters"] for path in seen.paths if path.get("parameters")), default=None)


def device_findings(wanted: Wanted, node: Node) -> list[Finding]:
    """The GPUs of a node: what Ray counts against what the driver reports."""
    counted = node.total.get("GPU", 0.0)
    free = node.free.get("GPU", 0.0)
    most = max((group.gpus for group in wanted.groups), default=0)
    told = f"{counted:g}, {free:g} free"
    assert node.seen is not None
    if wanted.device == "cpu":
        return [Finding(OK, "logical GPUs", node.address, f"{most}", told)]
    reported = node.seen.devices
    models = "" if not reported else f"; {reported[0]}"
    if counted and (reported is None or len(reported) < counted):
        seen = "nvidia-smi is absent" if reported is None else f"nvidia-smi reports {len(reported)}"
        told = f"{told}; {seen}"
        remedy = "Ray counts GPUs that are not there; look at the driver, or start Ray with the right --num-gpus"
        return [Finding(FAULT, "GPUs", node.address, f"{most}", told, remedy)]
    # Too few for a group is a fault of the cluster only where no other nodes have them; `placement` tells.
    return [Finding(OK, "GPUs", node.address, f"{most}", told + models)]


def limit_finding(name: str, node: Node, least: int, enough: int) -> Finding:
    """One of ulimit's numbers."""
    assert node.seen is not None
    limit = node.seen.limits[name.replace(" ", "_")]
    flag = {"open files": "-n", "processes": "-u"}[name]
    level = OK if limit is None or limit >= enough else FAULT if limit < least else WARN
    told = "unlimited" if limit is None else str(limit)
    remedy = "" if level == OK else f"`ulimit {flag} {enough}` in the shell that starts Ray on this node"
    return Finding(level, f"ulimit: {name}", node.address, str(enough), told, remedy)


def locked_finding(wanted: Wanted, node: Node) -> Finding:
    """InfiniBand registers memory, which has to be locked; other networks and one node need none of it."""
    assert node.seen is not None
    limit = node.seen.limits["locked_memory"]
    needed = wanted.device != "cpu" and wanted.nodes > 1
    told = "unlimited" if limit is None else size(limit)
    if limit is None or not needed:
        return Finding(OK, "ulimit: locked memory", node.address, "unlimited" if needed else "any", told)
    remedy = "`ulimit -l unlimited` before Ray starts, where NCCL uses InfiniBand"
    return Finding(WARN, "ulimit: locked memory", node.address, "unlimited", told, remedy)


def memory_finding(wanted: Wanted, node: Node, parameters: int | None) -> Finding:
    """Host memory: a lower bound, from what is certainly held there."""
    assert node.seen is not None
    need = LEAST_MEMORY + (wanted.offloaded * parameters / wanted.nodes if parameters else 0.0)
    told = f"{size(node.seen.memory)} free"
    if node.seen.memory >= need:
        return Finding(OK, "memory", node.address, f"at least {size(need)}", told)
    remedy = "free some, or spread the run over more nodes"
    return Finding(FAULT, "memory", node.address, f"at least {size(need)}", told, remedy)


def shared_finding(wanted: Wanted, node: Node) -> Finding:
    """/dev/shm, where NCCL, data loaders and weights on their way to vLLM lie."""
    assert node.seen is not None
    need, free = wanted.shared_memory, node.seen.shared_memory
    if free >= need:
        return Finding(OK, "/dev/shm", node.address, f"at least {size(need)}", f"{size(free)} free")
    remedy = "start the container with --shm-size, or --ipc=host"
    return Finding(FAULT, "/dev/shm", node.address, f"at least {size(need)}", f"{size(free)} free", remedy)


def store_finding(node: Node) -> Finding:
    """Ray's object store."""
    store = node.total["object_store_memory"]
    level = FAULT if store < LEAST_OBJECT_STORE else WARN if store < OBJECT_STORE else OK
    remedy = "" if level == OK else "start Ray with a larger --object-store-memory, and a larger /dev/shm"
    return Finding(level, "object store", node.address, f"at least {size(OBJECT_STORE)}", size(store), remedy)


def disk_finding(wanted: Wanted, node: Node, parameters: int | None) -> Finding:
    """Room for two checkpoints: verl removes an old one only after the new one is written."""
    assert node.seen is not None
    disk = node.seen.disk
    free, folder = disk["free"], disk["folder"]
    told = f"{size(free)} free at {folder}"
    need = GIB + (2 * CHECKPOINT_BYTES * parameters if parameters else 0.0)
    if not disk["writable"]:
        remedy = "set trainer.default_local_dir to a folder that can be written"
        return Finding(FAULT, "checkpoint disk", node.address, f"{size(need)} free", f"{folder}: not writable", remedy)
    if free < need:
        remedy = "free some, set trainer.default_local_dir elsewhere, or trainer.max_actor_ckpt_to_keep=1"
        return Finding(FAULT, "checkpoint disk", node.address, f"{size(need)} free", told, remedy)
    known = f"{size(need)} free" if parameters else f"{size(need)} free (the model's size is not known here)"
    return Finding(OK, "checkpoint disk", node.address, known, told)


def clock_findings(nodes: Sequence[Node]) -> list[Finding]:
    """How far the clocks of the nodes are apart, less what reading them leaves in doubt.

    spread = max over pairs (i, j) of |offset_i - offset_j| - doubt_i - doubt_j, at least 0
    """
    read = [(node.clock, node.doubt, node.address) for node in nodes if node.clock is not None]
    if len(read) < 2:
        return []
    ahead = max(read, key=lambda one: one[0] - one[1])
    behind = min(read, key=lambda one: one[0] + one[1])
    spread = max(ahead[0] - behind[0] - ahead[1] - behind[1], 0.0)
    wanted = f"within {CLOCK_WARN_S:g} s"
    if spread <= CLOCK_WARN_S:
        return [Finding(OK, "clock skew", CLUSTER, wanted, f"{spread:.2f} s")]
    level = FAULT if spread > CLOCK_FAULT_S else WARN
    told = f"{spread:.1f} s: {ahead[2]} is ahead of {behind[2]}"
    return [Finding(level, "clock skew", CLUSTER, wanted, told, "synchronise the clocks (chrony, systemd-timesyncd)")]

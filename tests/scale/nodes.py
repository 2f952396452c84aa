"""Run as a program: a Ray cluster of several nodes on this machine, which loses and gains nodes as files ask for it.

Usage: python nodes.py FOLDER. Each node offers one "GPU", which is one training process of the CPU platform. The
worker joins as soon as verl's trainer is running: so the trainer is on the head, and outlives the worker. In FOLDER:

- `address`: where the cluster answers, and the nodes that have been there;
- `actors.jsonl`: a line whenever an actor has appeared, with its class, process and node, and who lives where;
- `remove`: made by the caller, the worker node is killed at once; the time goes to `removed`;
- `add`: made by the caller, a new worker node joins; its id goes to `added`.

It ends when FOLDER/stop exists. Whoever starts it ends its whole family.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 400 * 2**20  # of a node's object store; of /dev/shm, and only what is used
TRAINER = "TaskRunnerV1"
NODE = {"num_cpus": 12, "num_gpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}


def living(cluster: Any) -> dict[str, dict[str, Any]]:
    """The actors that live now, by id."""
    table = cluster.global_state.actor_table(None, None, "ALIVE")
    return {
        actor: {"class": row["ActorClassName"], "pid": row["Pid"], "node": row["Address"]["NodeID"]}
        for actor, row in table.items()
    }


def write(file: Path, text: str) -> None:
    """Whole or not at all: someone is waiting for the file to appear."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.rename(file)


def take(order: Path) -> bool:
    """Whether an order has been given; it is carried out once."""
    if not order.exists():
        return False
    order.unlink()
    return True


def main(folder: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    nodes = {"address": cluster.address, "head": cluster.head_node.node_id}
    write(folder / "address", json.dumps(nodes))
    worker = None
    seen: dict[str, dict[str, Any]] = {}
    while not (folder / "stop").exists():
        if take(folder / "remove"):
            at = time.time()
            cluster.remove_node(worker, allow_graceful=False)
            write(folder / "removed", str(at))
        if take(folder / "add"):
            worker = cluster.add_node(**NODE)
            write(folder / "added", worker.node_id)
        now = living(cluster)
        with (folder / "actors.jsonl").open("a") as sink:
            for new in now.keys() - seen.keys():
                sink.write(json.dumps(now[new]) + "\n")
        seen |= now
        if worker is None and any(actor["class"] == TRAINER for actor in seen.values()):
            worker = cluster.add_node(**NODE)
            write(folder / "address", json.dumps({**nodes, "worker": worker.node_id}))
        time.sleep(0.5)
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

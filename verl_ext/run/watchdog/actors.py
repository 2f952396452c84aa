"""The Ray actors of this job: which died although nobody asked them to, and the stacks of those that live.

Asked of Ray's control store itself, so that it works where the dashboard is switched off. Every question may wait for
ever when that store is gone: it is asked in threads that nobody waits for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from verl_ext.run.watchdog import stacks

NAMESPACE = b"verl_ext_watchdog"
# Reasons of Ray for the end of an actor that mean that somebody wanted it.
WANTED = ("RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED", "OWNER_DIED")
WANTED_WORDS = ("exit_actor", "INTENDED_USER_EXIT", "INTENDED_SYSTEM_EXIT")


@dataclass(frozen=True)
class Actor:
    """What Ray knows about an actor."""

    id: str
    label: str
    kind: str
    pid: int
    node: str
    address: str

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> Actor:
        where = known["Address"]
        return cls(
            id=known["ActorID"],
            label=known["Name"] or known["ActorClassName"],
            kind=known["ActorClassName"],
            pid=known["Pid"],
            node=where["NodeID"],
            address=where["IPAddress"],
        )

    @property
    def who(self) -> str:
        name = "" if self.label == self.kind else f" '{self.label}'"
        return f"the Ray actor {self.kind}{name} (pid {self.pid}, node {self.address or 'unknown'})"


def table(state: str | None = None) -> list[dict[str, Any]]:
    """Every actor of this job in that state, as Ray keeps it."""
    import ray
    from ray._private import state as store

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return list(store.actors(job_id=job, actor_state_name=state).values())


def alive() -> list[Actor]:
    """The actors of this job that live."""
    return [Actor.of(known) for known in table("ALIVE")]


def living() -> set[str]:
    """Ids of the actors of this job that have not died. Training begins while verl's last ones are still starting."""
    return {known["ActorID"] for known in table() if known["State"] != "DEAD"}


def dead(ignored: Collection[str], vital: Collection[str] | None) -> list[tuple[str, str, str]]:
    """Actors of this job that died without being asked to, and processes that others have reported.

    Args:
        ignored: class names that do not count.
        vital: ids of the actors that count; None: all.

    Returns:
        Of each a key, who it was, and why it died.
    """
    found = []
    for known in table("DEAD"):
        actor, why = Actor.of(known), cause(known["DeathCause"])
        if why is not None and actor.kind not in ignored and (vital is None or actor.id in vital):
            found.append((actor.id, actor.who, why))
    return found + reported()


def cause(death: Any) -> str | None:
    """Why an actor died, in a sentence of Ray's; None if it was meant to."""
    kind = death.WhichOneof("context")
    if kind == "creation_task_failure_context":
        lines = death.creation_task_failure_context.formatted_exception_string.strip().splitlines()
        return "it could not be created: " + (lines[-1] if lines else "no reason is known")
    if kind != "actor_died_error_context":
        return str(getattr(death, kind).error_message).strip() if kind else "no reason is known"
    context = death.actor_died_error_context
    text = " ".join(context.error_message.split())
    reason = type(context).Reason.Name(context.reason) if context.reason else ""
    if reason in WANTED or any(word in text for word in WANTED_WORDS):
        return None
    return text or reason


def report(key: str, who: str, why: str) -> None:
    """From any process of the job: a process died that is no Ray actor."""
    _put("death", key, [who, why])


def reported() -> list[tuple[str, str, str]]:
    """What `report` was given in this job."""
    return [(key, who, why) for key, (who, why) in _all("death").items()]


def put_beat(pid: int, count: int) -> None:
    """From a worker: it has done so many micro-batches."""
    import ray

    _put("beat", f"{ray.util.get_node_ip_address()}:{pid}", count)


def beats() -> int:
    """Micro-batches that the workers of this job have said they have done."""
    return sum(_all("beat").values())


def _key(kind: str, key: str) -> bytes:
    import ray

    return f"{ray.get_runtime_context().get_job_id()}:{kind}:{key}".encode()


def _put(kind: str, key: str, value: Any) -> None:
    import ray
    from ray.experimental import internal_kv

    # Ray would be started to name the job, in a process that trains without it: nobody is there to be told.
    if not ray.is_initialized():
        return
    internal_kv._internal_kv_put(_key(kind, key), json.dumps(value).encode(), overwrite=True, namespace=NAMESPACE)


def _all(kind: str) -> dict[str, Any]:
    from ray.experimental import internal_kv

    found = {}
    for key in internal_kv._internal_kv_list(_key(kind, ""), namespace=NAMESPACE):
        value = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
        if value:
            found[key.decode()] = json.loads(value)
    return found


def all_stacks(actors: Iterable[Actor], limit_s: float) -> tuple[dict[str, str], list[str]]:
    """Stacks of the actors and of what they started, on every node.

    Returns:
        Name of a process -> its stacks; and a sentence for every node that did not answer in time.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    deadline = time.monotonic() + limit_s
    nodes: dict[str, dict[int, str]] = {}
    addresses: dict[str, str] = {}
    for actor in actors:
        nodes.setdefault(actor.node, {})[actor.pid] = actor.label
        addresses[actor.node] = actor.address
    task = ray.remote(num_cpus=0, max_retries=0)(stacks.of_processes)
    pending = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(labels)
        for node, labels in nodes.items()
        if node != here
    }
    found = stacks.of_processes(nodes[here]) if here in nodes else {}
    silent = []
    for node, reference in pending.items():
        try:
            there = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except ray.exceptions.RayError as error:
            silent.append(f"node {addresses[node]} gave no stacks: {type(error).__name__}")
            continue
        found.update({f"{addresses[node]}-{name}": text for name, text in there.items()})
    return found, silent

"""A remote probe: is the plugin loaded in a Ray worker on every node?

verl swallows a plugin's exceptions, and a node on which the plugin is missing or older fails minutes later with a
message about something else. So as soon as Ray is up, one task a node imports verl and looks into its registries;
what it finds is compared with what the configuration needs while the trainer is starting.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from typing import Any

LIMIT_S = 120.0


def arrange(config: Any) -> None:
    """After the next ``ray.init`` of this process, probe every node for the methods that ``config`` names."""
    import ray

    wanted = needs(config)
    if not wanted or ray.is_initialized():
        return
    original = ray.init

    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        ray.init = original
        result = original(*args, **kwargs)
        threading.Thread(target=_probe_or_exit, args=(wanted,), daemon=True, name="verl_ext-probe").start()
        return result

    ray.init = init


def needs(config: Any) -> dict[str, str]:
    """The methods of ours that the configuration names, by kind, with the plugin's version here."""
    from verl_ext import __version__, plugin

    loss = config.actor_rollout_ref.actor.policy_loss.get("loss_mode", "vanilla")
    estimator = str(config.algorithm.adv_estimator)
    found = {"policy loss": loss} if loss in plugin.POLICY_LOSSES else {}
    if estimator in plugin.ESTIMATORS:
        found["advantage estimator"] = estimator
    return {**found, "version": __version__} if found else {}


def look(wanted: dict[str, str]) -> list[str]:
    """In a Ray worker: what of ``wanted`` is missing in this process."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    from verl_ext import __version__

    registries = {"policy loss": POLICY_LOSS_REGISTRY, "advantage estimator": ADV_ESTIMATOR_REGISTRY}
    found = [
        f"{kind} {wanted[kind]!r} is not registered"
        for kind, registry in registries.items()
        if kind in wanted and wanted[kind] not in registry
    ]
    if __version__ != wanted["version"]:
        found.append(f"verl-ext {__version__} is installed, the driver has {wanted['version']}")
    return found


def probe(wanted: dict[str, str]) -> list[str]:
    """Faults of every node of the running Ray cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(look)
    found = []
    pending = {
        node["NodeManagerAddress"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(wanted)
        for node in ray.nodes()
        if node["Alive"]
    }
    for address, reference in pending.items():
        try:
            found += [f"node {address}: {fault}" for fault in ray.get(reference, timeout=LIMIT_S)]
        except (ray.exceptions.RayError, ImportError) as error:
            found.append(f"node {address}: the plugin cannot be imported: {str(error).strip().splitlines()[-1]}")
    return found


def _probe_or_exit(wanted: dict[str, str]) -> None:
    import ray

    found = probe(wanted)
    if found:
        lines = "\n".join(f"  - {fault}" for fault in found)
        sys.stderr.write(f"verl_ext: the plugin is not usable in Ray's workers; the run is stopped:\n{lines}\n")
        sys.stderr.flush()
        ray.shutdown()
        # The main thread waits inside Ray for a trainer that cannot start; nothing of it is worth keeping.
        os._exit(1)

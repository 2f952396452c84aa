"""A Ray job with actors that end in every way there is; prints what the watchdog makes of them, as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import ray
from omegaconf import OmegaConf

from verl_ext.bridge import watchdog as bridge
from verl_ext.run.watchdog import actors, stacks

WAYS = ("killed", "ray_kill", "exit_actor", "sys_exit", "out_of_scope", "restarts", "unborn", "sleeper", "ignored")


class Actor:
    def __init__(self, way: str) -> None:
        stacks.register()
        if way == "unborn":
            raise RuntimeError("it was not to be")

    def ping(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        ray.actor.exit_actor()

    def quit(self) -> None:
        sys.exit(0)

    def sleep_for_ever_in_a_probe(self) -> None:
        time.sleep(600)


class Runner:
    """As verl's TaskRunner: opens the queue, waits for something that never comes, closes."""

    def run(self, limit_s: float, folder: str, stubborn: bool) -> None:
        config = OmegaConf.create(
            {
                "trainer": {"default_local_dir": folder},
                "data": {"train_batch_size": 8},
                "transfer_queue": {},
                "verl_ext": {"watchdog": {"limit_s": limit_s, "start_up_limit_s": limit_s, "dead_process_s": 1}},
            }
        )
        bridge.start(config.transfer_queue)
        try:
            never = ray.remote(Actor).remote("sleeper")
            ray.get(never.sleep_for_ever_in_a_probe.remote())
        finally:
            if stubborn:
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
                time.sleep(300)
            bridge.end(lambda: None)


def deaths() -> dict:
    made = {}
    for way in WAYS:
        cls = ray.remote(num_cpus=0)(type("Ignored", (Actor,), {}) if way == "ignored" else Actor)
        restarts = 1 if way == "restarts" else 0
        made[way] = cls.options(name=f"probe_{way}", max_restarts=restarts).remote(way)
    # Asked for just now: most of them cannot run yet.
    asked_for = actors.living() & {actor._actor_id.hex() for actor in made.values()}
    running = {actor.id for actor in actors.alive()}
    pids = {way: ray.get(made[way].ping.remote()) for way in WAYS if way != "unborn"}
    made["sleeper"].sleep_for_ever_in_a_probe.remote()
    for way in ("killed", "restarts", "ignored"):
        os.kill(pids[way], signal.SIGKILL)
    killed = time.time()
    ray.kill(made["ray_kill"])
    made["exit_actor"].leave.remote()
    made["sys_exit"].quit.remote()
    del made["out_of_scope"]
    seen = None
    while time.time() < killed + 15:
        found = actors.dead(["Ignored"], None)
        if seen is None and any("probe_killed" in who for _, who, _ in found):
            seen = time.time() - killed
        time.sleep(0.5)
    alive = actors.alive()
    actors.report("x:1", "a process", "it ended")
    actors.put_beat(1, 3)
    actors.put_beat(1, 5)
    actors.put_beat(2, 2)
    texts, silent = actors.all_stacks(alive, 15)
    return {
        "dead": actors.dead(["Ignored"], None),
        "vital": actors.dead([], {"nobody"}),
        "seen": seen,
        "asked_for": len(asked_for),
        "not_running_yet": len(asked_for - running),
        "killed_counts": made["killed"]._actor_id.hex() in asked_for,
        "alive": [actor.label for actor in alive],
        "stacks": texts,
        "silent": silent,
        "beats": actors.beats(),
    }


def ended(folder: str, stubborn: bool) -> dict:
    began = time.time()
    runner = ray.remote(num_cpus=0)(Runner).remote()
    try:
        ray.get(runner.run.remote(3.0, folder, stubborn))
    except ray.exceptions.RayError as error:
        return {"kind": type(error).__name__, "text": str(error), "seconds": time.time() - began}
    return {}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=True)
    out, folder = sys.argv[1:]
    # The deaths last: one of them is reported for the whole job, and would end the two runs before their limit.
    found = {"blocked": ended(folder, False), "stubborn": ended(folder, True), "deaths": deaths()}
    with open(out, "w") as file:
        json.dump(found, file)

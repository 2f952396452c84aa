"""A Ray cluster of two simulated nodes and verl's stock trainer on it; both end here, whatever happens."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.trainer import one_at_a_time
from verl_ext.platform.cpu import cpu_env
from verl_ext.process import ProcessFamily
from verl_ext.run_report.history import History

HERE = Path(__file__).resolve().parent
LIMIT_S = 480
RAY = "ray_kwargs.ray_init"


@dataclass
class Nodes:
    """The cluster: a head and a worker, one "GPU" each.

    Attributes:
        folder: where the program of the cluster tells and is told (nodes.py).
        process: that program.
    """

    folder: Path
    process: ProcessFamily

    @property
    def ids(self) -> dict[str, str]:
        """Address, and the ids of head and worker."""
        return json.loads((self.folder / "address").read_text())

    def actors(self, name: str, within: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """The actors of a class in the order in which they appeared; only those of the given nodes, if any."""
        lines = (self.folder / "actors.jsonl").read_text().splitlines()
        found = [actor for actor in map(json.loads, lines) if actor["class"].startswith(name)]
        return [actor for actor in found if actor["node"] in within or not within]

    def order(self, what: str, answer: str, limit_s: float = 90) -> str:
        """Have the program do something, wait for its answer."""
        (self.folder / what).touch()
        return wait_for(self.folder / answer, self.process, limit_s).read_text()

    def lose(self) -> float:
        """Kill the worker node at once; when that began, in seconds of `time.time`."""
        return float(self.order("remove", "removed"))

    def replace(self) -> str:
        """A new worker node; its id."""
        return self.order("add", "added")


@dataclass
class Job:
    """A trainer run on the cluster.

    Attributes:
        folder: its files.
        process: verl's entry point.
        ended: when it ended, in seconds of `time.time`.
    """

    folder: Path
    process: ProcessFamily
    ended: float = field(default=0.0)

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text(errors="replace")

    def steps(self) -> list[dict[str, Any]]:
        """Metrics of the training steps so far."""
        return [record.values for record in History.read(self.folder / "metrics.jsonl").steps()]

    def until(self, done: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Wait until something has happened; the job must not end before."""
        wait(done, self.process, limit_s, lambda: self.log[-4000:])

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the job's own end; its exit code."""
        deadline = time.time() + limit_s
        while (status := self.process.poll()) is None:
            if time.time() > deadline:
                raise TimeoutError(f"the trainer was still running after {limit_s:.0f} s")
            self.process.note_family()
            time.sleep(0.2)
        self.ended = time.time()
        return status


def wait(done: Callable[[], bool], process: ProcessFamily, limit_s: float, said: Callable[[], str]) -> None:
    """Look four times a second whether something has happened; the process must still be running by then."""
    deadline = time.time() + limit_s
    while not done():
        assert process.poll() is None, f"ended with {process.poll()}:\n{said()}"
        assert time.time() < deadline, f"nothing after {limit_s:.0f} s:\n{said()}"
        process.note_family()
        time.sleep(0.25)


def wait_for(file: Path, process: ProcessFamily, limit_s: float) -> Path:
    wait(file.exists, process, limit_s, lambda: (file.parent / "nodes.log").read_text(errors="replace")[-4000:])
    return file


@contextmanager
def two_nodes(folder: Path) -> Iterator[Nodes]:
    """The cluster, while no other trainer runs on this machine; nothing of it is left afterwards."""
    folder.mkdir(parents=True)
    environment = {**os.environ, **cpu_env(), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with one_at_a_time():
        process = ProcessFamily(
            [sys.executable, str(HERE / "nodes.py"), str(folder)], environment, folder / "nodes.log"
        )
        try:
            wait_for(folder / "address", process, 120)
            yield Nodes(folder, process)
        finally:
            process.end()
            forget(folder)


def forget(folder: Path) -> None:
    """Ray notes the latest cluster of a machine for drivers that name none; a dead one would be in their way."""
    from ray._common.utils import get_ray_address_file

    noted, told = Path(get_ray_address_file(None)), folder / "address"
    if noted.exists() and told.exists() and noted.read_text().strip() == json.loads(told.read_text())["address"]:
        noted.unlink()


@contextmanager
def job(folder: Path, nodes: Nodes, arguments: list[str], processes: int = 2) -> Iterator[Job]:
    """``python -m verl.trainer.main_ppo`` with the cluster's address: what a user types on a machine of the cluster.

    Ray refuses sizes for a cluster that runs already, so those of the back end are taken away. There is one training
    process a node.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", *arguments),
        *(f"+{RAY}.address={nodes.ids['address']}", f"{RAY}.num_cpus=null", f"{RAY}.num_gpus=null"),
        f"+{RAY}.runtime_env.env_vars.VERL_FILE_LOGGER_PATH={folder}/metrics.jsonl",
        *(f"trainer.nnodes={processes}", "trainer.n_gpus_per_node=1"),
        f"hydra.run.dir={folder}/hydra",
    ]
    process = ProcessFamily(command, {**os.environ, "HF_HUB_OFFLINE": "1"}, folder / "train.log")
    try:
        yield Job(folder, process)
    finally:
        process.end()

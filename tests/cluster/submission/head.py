"""A Ray head with its job server on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.trainer import one_at_a_time
from verl_ext.cluster.submission import client
from verl_ext.process import ProcessFamily

PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port",
    "metrics-export-port", "runtime-env-agent-port", "node-manager-port", "object-manager-port",
)  # fmt: skip
# What a shell may have set, and what would send jobs elsewhere or reach them by another way than the test's.
HIDDEN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "SOME_KEY", "PYTHONHASHSEED", "VERL_EXT_DATA")


def shell(**more: str) -> dict[str, str]:
    """The environment of a person at this machine, whose `python` is the tests'."""
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), **more}


@contextlib.contextmanager
def ray_head(cpus: int, gpus: int) -> Iterator[str]:
    """The job server's address; all of Ray has ended afterwards.

    Args:
        cpus, gpus: slots that Ray counts; they need not exist.
    """
    # Not pytest's folder: the names of Ray's sockets have to fit into 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="verl-ext-ray-"))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--temp-dir={folder}", f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=80000000",
        "--include-dashboard=true", *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    # Ray asks for a token as soon as there is one in the home folder.
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    with one_at_a_time():
        head = ProcessFamily(command, shell(**own), folder / "head.log")
        try:
            yield _reached(f"http://127.0.0.1:{ports['dashboard-port']}", head, folder / "head.log")
        finally:
            head.end()
            shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _reached(address: str, head: ProcessFamily, log: Path) -> str:
    deadline = time.monotonic() + 180
    while True:
        head.note_family()
        try:
            client.connect(address)
        except ConnectionError:
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        else:
            return address

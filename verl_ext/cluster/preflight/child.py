"""The process that asks Ray, or this machine: ``python -m verl_ext.cluster.preflight.child REQUEST ANSWER``."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from verl_ext.checks import probe
from verl_ext.cluster.preflight.asking import publish
from verl_ext.cluster.preflight.found import LOCAL, Found, Node, Seen
from verl_ext.cluster.preflight.survey import SILENT, last_line, survey

_CONNECT_S = 5.0
# What opens an HTTP/2 connection, with empty settings; gRPC servers, such as Ray's, answer with theirs (RFC 9113, 3.4).
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4


def main(asked: str, answer: str) -> None:
    """The child: read the request, write what is known whenever more of it is."""
    what = json.loads(Path(asked).read_text())

    def tell(found: Found) -> None:
        publish(answer, found.to_json().encode())

    address = what["address"] if what["address"] == LOCAL else resolve(what["address"])
    if address == LOCAL:
        here(what, tell)
    else:
        cluster(what, address, tell)


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


def here(what: Mapping[str, Any], tell: Callable[[Found], None]) -> None:
    """This machine, as a Ray that the run starts would count it."""
    os.environ.update(what["runtime_env"].get("env_vars") or {})
    seen, told = probe.look(what["probe"]), what["resources"]
    counts = {
        "CPU": float(told.get("CPU") or len(os.sched_getaffinity(0))),
        "GPU": float(told.get("GPU") or visible(seen["devices"] or [])),
    }
    # The registries take longest; the rest is known without them.
    tell(Found(LOCAL, nodes=[Node(seen["host"], counts, counts, Seen(**seen, plugin=SILENT))]))
    tell(Found(LOCAL, nodes=[Node(seen["host"], counts, counts, Seen(**seen, plugin=probe.plugin()))]))


def visible(devices: Sequence[str]) -> int:
    """GPUs that this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(devices) if chosen is None else min(len(devices), len([one for one in chosen.split(",") if one]))


def cluster(what: Mapping[str, Any], address: str, tell: Callable[[Found], None]) -> None:
    """A running Ray: its nodes, what each of them answers, the placement groups, the clocks."""
    error = unreachable(address)
    if error is not None:
        tell(Found(address, error=error))
        return
    import ray

    try:
        ray.init(
            address=address, runtime_env=what["runtime_env"] or None, log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
    # Versions of Python or Ray that differ, a refused runtime_env: all of it is what was asked.
    except Exception as refused:
        tell(Found(address, error=f"{type(refused).__name__}: {last_line(refused)}"))
        return
    try:
        survey(what, tell, partial(Found, address))
    finally:
        ray.shutdown()


def unreachable(address: str) -> str | None:
    """Why nothing can be asked there; found in seconds, where ``ray.init`` waits for two minutes."""
    if "://" in address:
        return "neither Ray Client nor the job server can tell what each node has free; give the head's host:port"
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return "no Ray there: not an address of the form host:port"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as connection:
            # With TLS between Ray's processes a plain greeting proves nothing.
            return None if os.environ.get("RAY_USE_TLS") == "1" else _stranger(connection)
    except OSError as error:
        return f"nothing answers: {error}"


def _stranger(connection: socket.socket) -> str | None:
    """Whether it is something else than Ray that listens."""
    connection.sendall(_GREETING)
    # Three bytes of length, one of the frame's type.
    reply = connection.recv(9)
    if len(reply) > 3 and reply[3] == _SETTINGS:
        return None
    return "something else than Ray listens there; the port is that of `ray start --head`, 6379 by default"


if __name__ == "__main__":
    main(*sys.argv[1:])

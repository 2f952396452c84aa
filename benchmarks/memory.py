"""The most memory that a call holds at once, beyond its inputs."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], object], device: str = "cpu") -> int:
    """Greatest sum of bytes that were allocated since the call began and not yet freed, its result included.

    On a CPU torch's profiler writes down every allocation and release, and these are added up. On a GPU the
    caching allocator keeps the number. Both count temporaries inside torch's operators, what autograd saves,
    and the gradient.
    """
    step()
    return _cuda_peak(step) if device.startswith("cuda") else _cpu_peak(step)


def _cpu_peak(step: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    del result
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    return max(itertools.accumulate(event["args"]["Bytes"] for event in changes), default=0)


def _cuda_peak(step: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = step()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before

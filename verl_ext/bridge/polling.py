"""The trainer's wait for rollouts: short looks at first, and ever longer ones up to verl's own interval.

verl's replay buffer sleeps two seconds between looks, however short a step is: with rollouts of a second, most of a
step is that sleep.
"""

from __future__ import annotations

import functools
from typing import Any

FIRST_S = 0.05
GROWTH = 1.25
"""Each wait is this many times the last: what is ready is taken at most a quarter of its own time, and the first
wait, too late."""


def quicken(buffer: Any) -> None:
    """Have a replay buffer wait a short time first whenever it begins to wait for samples.

    `poll_interval` is what verl set whenever anyone else reads it: the asynchronous trainer compares its idle time
    with it. A custom sampler that waits in a way of its own is left alone.

    Args:
        buffer: the trainer's.
    """
    if not hasattr(buffer, "_wait_for_next_poll") or not hasattr(buffer, "poll_interval"):
        return
    wait, longest = buffer._wait_for_next_poll, buffer.poll_interval
    interval = min(FIRST_S, longest)

    def from_the_start(method: Any) -> Any:
        @functools.wraps(method)
        def begun(*args: Any, **kwargs: Any) -> Any:
            nonlocal interval
            interval = min(FIRST_S, longest)
            return method(*args, **kwargs)

        return begun

    @functools.wraps(wait)
    def _wait_for_next_poll(*args: Any, **kwargs: Any) -> Any:
        nonlocal interval
        buffer.poll_interval, interval = interval, min(interval * GROWTH, longest)
        try:
            return wait(*args, **kwargs)
        finally:
            buffer.poll_interval = longest

    for name in ("sample", "wait_for_sampleable"):
        if hasattr(buffer, name):
            setattr(buffer, name, from_the_start(getattr(buffer, name)))
    buffer._wait_for_next_poll = _wait_for_next_poll

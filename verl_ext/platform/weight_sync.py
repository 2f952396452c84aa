"""A weight sync that is checked tensor by tensor, and that ends with an error when the other side has died.

Runs in the training process (verl's ``ServerAdapter``). After each sync the engine's fingerprints are compared with
those of the tensors that left the actor; any difference is fatal. While the sync runs, every wait on the socket also
looks at the engine's processes and at the engine's own answer, so that a dead or failing receiver ends the wait
within a second instead of never.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import psutil

from verl_ext.platform.fingerprint import digest

# Seconds without any progress on the socket after which a sync is given up although every process is alive.
STALL_LIMIT_S = 60.0
POLL_MS = 500


class WeightSyncError(RuntimeError):
    """The rollout engine died, stalled, refused a tensor, or holds other weights than the actor sent."""


@dataclass
class Watch:
    """What a waiting sender keeps an eye on."""

    processes: list[psutil.Process] = field(default_factory=list)
    answer: Any = None

    def check(self) -> None:
        """Raise if an engine process has ended, or if the engine has already answered with an error."""
        for process in self.processes:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise WeightSyncError(
                    f"vLLM's worker process {process.pid} died during the weight sync. Its last words are in the "
                    "log above (search for the pid); a process that was killed without a word often ran out of memory."
                )
        if self.answer is not None:
            import ray

            ready, _ = ray.wait([self.answer], timeout=0)
            if ready:
                ray.get(self.answer)


_watch: ContextVar[Watch | None] = ContextVar("verl_ext_weight_sync_watch", default=None)

# Report of the latest checked sync in this process, shown among the actor's metrics.
last_report: dict[str, float] = {}


class GuardedSocket:
    """A ZMQ REQ socket whose send and receive never wait longer than the receiver lives.

    Args:
        socket: the socket to wait on.
        watch: called about twice a second while waiting; raises to end the wait.
        stall_limit_s: seconds without progress after which the wait ends even if nothing has died.
    """

    def __init__(self, socket: Any, watch: Callable[[], None], stall_limit_s: float = STALL_LIMIT_S) -> None:
        self._socket = socket
        self._watch = watch
        self._stall_limit_s = stall_limit_s
        # Without this, closing a socket with an undelivered message would block at exit.
        self._socket.setsockopt(_zmq().LINGER, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def send_pyobj(self, value: Any) -> None:
        self._wait(_zmq().POLLOUT)
        self._socket.send_pyobj(value)

    def recv(self) -> bytes:
        self._wait(_zmq().POLLIN)
        return self._socket.recv()

    def _wait(self, event: int) -> None:
        started = time.monotonic()
        while not self._socket.poll(POLL_MS, event):
            self._watch()
            if time.monotonic() - started > self._stall_limit_s:
                raise WeightSyncError(
                    f"the weight sync has made no progress for {self._stall_limit_s:.0f} s although vLLM's processes "
                    "are alive. Look for an error of the vLLM worker in the log above."
                )


def _zmq() -> Any:
    import zmq

    return zmq


def guard_sender(sender: type) -> None:
    """Give verl's ``BucketedWeightSender`` a guarded socket."""
    original = sender._init_socket  # type: ignore[attr-defined]

    @functools.wraps(original)
    def _init_socket(self: Any) -> None:
        original(self)
        watch = _watch.get()
        self.socket = GuardedSocket(self.socket, watch.check if watch else lambda: None)

    sender._init_socket = _init_socket  # type: ignore[attr-defined]


def check_every_sync(adapter: type) -> None:
    """Wrap ``ServerAdapter.update_weights``: watch the receiver, then compare fingerprints."""
    update, execute = adapter.update_weights, adapter._execute_method  # type: ignore[attr-defined]

    @functools.wraps(execute)
    async def _execute_method(self: Any, method: str, non_block: bool = False, **kwargs: Any) -> Any:
        result = await execute(self, method, non_block=non_block, **kwargs)
        watch = _watch.get()
        if watch is not None and method == "update_weights_from_ipc":
            watch.answer = result
        return result

    @functools.wraps(update)
    async def update_weights(self: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        watch = Watch(await _engine_processes(self))
        sent: dict[str, tuple[tuple[int, ...], str]] = {}
        token = _watch.set(watch)
        started = time.monotonic()
        try:
            result = await update(self, _recorded(weights, sent), *args, **kwargs)
        finally:
            _watch.reset(token)
        if self._ensure_server_handle():
            await _compare(self, sent)
            last_report["weight_sync/seconds"] = time.monotonic() - started
        return result

    adapter._execute_method = _execute_method  # type: ignore[attr-defined]
    adapter.update_weights = update_weights  # type: ignore[attr-defined]


async def _recorded(weights: Any, sent: dict[str, tuple[tuple[int, ...], str]]) -> AsyncIterator[Any]:
    from verl.workers.rollout.utils import ensure_async_iterator

    async for name, tensor in ensure_async_iterator(weights):
        sent[name] = (tuple(tensor.shape), digest(tensor))
        yield name, tensor


async def _engine_processes(adapter: Any) -> list[psutil.Process]:
    import asyncio

    if not adapter._ensure_server_handle():
        return []
    known = getattr(adapter, "_verl_ext_processes", None)
    if known is None:
        answers = await asyncio.wait_for(adapter._execute_method("verl_ext_worker"), STALL_LIMIT_S)
        known = adapter._verl_ext_processes = [psutil.Process(answer["pid"]) for answer in answers]
    Watch(known).check()
    return known


async def _compare(adapter: Any, sent: dict[str, tuple[tuple[int, ...], str]]) -> None:
    shapes = {name: shape for name, (shape, _) in sent.items()}
    answers = await adapter._execute_method("verl_ext_fingerprints", kwargs={"shapes": shapes})
    faults = [fault for answer in answers for fault in differences(sent, answer)]
    last_report.update({"weight_sync/tensors": float(len(sent)), "weight_sync/mismatches": float(len(faults))})
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:20])
        raise WeightSyncError(
            f"after the weight sync {len(faults)} tensor(s) of the rollout engine differ from the actor's:\n{shown}"
        )


def differences(sent: dict[str, tuple[tuple[int, ...], str]], answer: dict[str, Any]) -> list[str]:
    """Sentences for every tensor that the engine lacks, holds with other values, or holds without being sent."""
    digests = answer["digests"]
    faults = [f"{name}: the engine has no such parameter" for name, value in digests.items() if value is None]
    faults += [
        f"{name} {shape}: the engine holds other values"
        for name, (shape, expected) in sent.items()
        if digests.get(name) is not None and digests[name] != expected
    ]
    faults += [f"{name}: no tensor of the actor fills this parameter" for name in answer["uncovered"]]
    faults += [f"{name}: the experts compute with a packed copy of other weights" for name in answer["stale"]]
    return faults

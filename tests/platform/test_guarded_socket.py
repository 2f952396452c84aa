"""The socket of a weight sync: ordinary traffic passes, a dead or silent receiver ends the wait."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from verl_ext.platform import weight_sync
from verl_ext.platform.weight_sync import GuardedSocket, Watch, WeightSyncError


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """A bound REQ and a connected REP socket, as verl's sender and receiver have them."""
    context = zmq.Context()
    request, reply = context.socket(zmq.REQ), context.socket(zmq.REP)
    address = f"ipc://{tmp_path}/s"
    request.bind(address)
    reply.connect(address)
    yield request, reply
    request.close(linger=0)
    reply.close(linger=0)
    context.term()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_ordinary_traffic_passes(pair: tuple[Any, Any]) -> None:
    request, reply = pair
    received = []

    def serve() -> None:
        for _ in range(3):
            received.append(reply.recv_pyobj())
            reply.send(b"ack")

    thread = threading.Thread(target=serve)
    thread.start()
    socket = GuardedSocket(request, watch=lambda: None, stall_limit_s=20)
    for number in range(3):
        socket.send_pyobj({"bucket": number})
        assert socket.recv() == b"ack"
    thread.join()
    assert received == [{"bucket": 0}, {"bucket": 1}, {"bucket": 2}]


def test_a_slow_receiver_is_waited_for(pair: tuple[Any, Any]) -> None:
    request, reply = pair
    looks: list[float] = []

    def serve() -> None:
        reply.recv()
        time.sleep(1.2)
        reply.send(b"late")

    thread = threading.Thread(target=serve)
    thread.start()
    socket = GuardedSocket(request, watch=lambda: looks.append(time.monotonic()), stall_limit_s=20)
    socket.send_pyobj(0)
    assert socket.recv() == b"late"
    thread.join()
    assert len(looks) in (1, 2)  # 1.2 s of waiting, a look each 0.5 s


def test_a_receiver_that_never_answers_ends_the_wait_at_the_stall_limit(pair: tuple[Any, Any]) -> None:
    socket = GuardedSocket(pair[0], watch=lambda: None, stall_limit_s=1)
    started = time.monotonic()
    socket.send_pyobj("bucket")
    with pytest.raises(WeightSyncError, match="no progress for 1 s although vLLM's processes are alive"):
        socket.recv()
    assert 1 <= time.monotonic() - started < 3


def test_no_receiver_at_all_ends_the_send(tmp_path: Path) -> None:
    context = zmq.Context()
    request = context.socket(zmq.REQ)
    request.bind(f"ipc://{tmp_path}/nobody")
    socket = GuardedSocket(request, watch=lambda: None, stall_limit_s=0.6)
    with pytest.raises(WeightSyncError, match="no progress"):
        socket.send_pyobj("bucket")
    request.close()
    context.term()  # would block for ever if a message were left to linger


def test_a_message_in_the_queue_does_not_block_the_exit(pair: tuple[Any, Any]) -> None:
    GuardedSocket(pair[0], watch=lambda: None)
    assert pair[0].getsockopt(zmq.LINGER) == 0


def test_a_killed_receiver_is_named_within_two_seconds(pair: tuple[Any, Any], sleeper: subprocess.Popen) -> None:
    watch = Watch([psutil.Process(sleeper.pid)])
    socket = GuardedSocket(pair[0], watch=watch.check, stall_limit_s=5)
    socket.send_pyobj("bucket")
    killer = threading.Timer(0.3, sleeper.kill)
    killer.start()
    started = time.monotonic()
    with pytest.raises(WeightSyncError, match=f"worker process {sleeper.pid} died during the weight sync"):
        socket.recv()
    killer.join()
    assert time.monotonic() - started < 2


def test_watch_is_content_with_a_living_process_and_not_with_a_zombie(sleeper: subprocess.Popen) -> None:
    watch = Watch([psutil.Process(sleeper.pid)])
    watch.check()
    sleeper.kill()
    deadline = time.monotonic() + 5
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    # Killed but not waited for: the pid still exists, and `is_running()` alone says yes.
    assert psutil.Process(sleeper.pid).is_running()
    with pytest.raises(WeightSyncError, match=str(sleeper.pid)):
        watch.check()


def test_watch_raises_what_the_engine_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself is not started: only which of its two calls is made, and when, is looked at."""
    import ray

    finished: list[str] = []

    def get(reference: str) -> None:
        raise KeyError(f"the worker's own error, from {reference}")

    monkeypatch.setattr(ray, "wait", lambda references, timeout: ([r for r in references if r in finished], []))
    monkeypatch.setattr(ray, "get", get)
    watch = Watch(answer="sync-1")
    watch.check()
    finished.append("sync-1")
    with pytest.raises(KeyError, match="the worker's own error, from sync-1"):
        watch.check()


def test_verls_sender_gets_a_guarded_socket_that_watches_the_current_sync(
    pair: tuple[Any, Any], sleeper: subprocess.Popen
) -> None:
    class Sender:
        def _init_socket(self) -> None:
            self.socket = pair[0]

    weight_sync.guard_sender(Sender)
    sender = Sender()
    token = weight_sync._watch.set(Watch([psutil.Process(sleeper.pid)]))
    try:
        sender._init_socket()
    finally:
        weight_sync._watch.reset(token)
    assert isinstance(sender.socket, GuardedSocket)
    sender.socket.send_pyobj("bucket")
    sleeper.kill()
    with pytest.raises(WeightSyncError, match=str(sleeper.pid)):
        sender.socket.recv()

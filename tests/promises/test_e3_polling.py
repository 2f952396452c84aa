"""A run of ours looks for its rollouts soon after it has asked for them, and verl's own run waits as verl does."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from verl.trainer.ppo.v1 import replay_buffer, trainer_sync

from tests.bridge.configurations import compose
from verl_ext.bridge import polling

VERLS_S = 2.0


class Clock:
    """Stands for the module `time`: sleeping moves it, and costs nothing."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, [0.0]

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(replay_buffer, "time", found)
    return found


def built(*overrides: str) -> Any:
    """The replay buffer that verl's trainer builds for this configuration."""
    return trainer_sync.PPOTrainerSync(compose("+backend=cpu", *overrides)).replay_buffer


@pytest.fixture(scope="module")
def ours() -> Any:
    return built("+algo=espo")


def waited(buffer: Any, clock: Clock, ready_at: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Sample one prompt that is finished `ready_at` seconds from now; the seconds until verl has it."""
    begun = clock.now

    def kv_list() -> dict[str, Any]:
        status = "finished" if clock.now - begun >= ready_at else "running"
        return {"train": {"u": {"is_prompt": True, "global_steps": 1, "status": status}, "u_0_0": {}}}

    queue = SimpleNamespace(kv_list=kv_list, kv_clear=lambda **_: None)
    monkeypatch.setattr(replay_buffer, "tq", queue)
    buffer.sample(1, "train", 1)
    return clock.now - begun


@pytest.mark.parametrize("ready_at", [0.01, 0.3, 1.1, 5.0, 120.0])
def test_what_is_ready_is_taken_soon(ours: Any, clock: Clock, ready_at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits grow by a quarter: the last one is a quarter of all before it and the first, and at most verl's."""
    late = waited(ours, clock, ready_at, monkeypatch) - ready_at
    assert 0 <= late <= min(VERLS_S, 0.25 * ready_at + polling.FIRST_S)


def test_a_long_wait_comes_to_verls_interval_and_the_next_begins_short(
    ours: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited(ours, clock, 60.0, monkeypatch)
    assert clock.slept[-1] == max(clock.slept) == VERLS_S
    assert waited(ours, clock, 0.01, monkeypatch) == pytest.approx(polling.FIRST_S)
    assert ours.poll_interval == VERLS_S  # for whoever else reads it


def test_a_run_that_is_not_ours_is_left_as_it_is(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(built("~verl_ext"), clock, 0.01, monkeypatch) == VERLS_S


def test_the_asynchronous_buffer_waits_so_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = built("+algo=espo", "trainer.v1.trainer_mode=colocate_async")
    assert isinstance(buffer, replay_buffer.ReplayBufferAsync)
    assert waited(buffer, clock, 0.3, monkeypatch) < 0.5


def test_contract_verls_buffer_sleeps_poll_interval_between_looks() -> None:
    assert "time.sleep(self.poll_interval)" in inspect.getsource(replay_buffer.ReplayBuffer._wait_for_next_poll)
    for cls in (replay_buffer.ReplayBuffer, replay_buffer.ReplayBufferAsync):
        assert inspect.signature(cls).parameters["poll_interval"].default == VERLS_S

"""The threads: what they do, in which order, and that a blocked main thread is ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from verl_ext.run.watchdog import watchdog
from verl_ext.run.watchdog.ledger import TRAINING, Ledger
from verl_ext.run.watchdog.settings import WatchdogSettings


class World:
    """What the watchdog asks of the world and does to it."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.said = ""
        self.died: list[tuple[str, str, str]] = []
        self.vital: set[str] | None = None
        self.count = 0

    def actions(self) -> watchdog.Actions:
        def dead(vital: set[str] | None) -> list[tuple[str, str, str]]:
            self.vital = vital
            return self.died

        def say(text: str) -> None:
            self.said += text + "\n"

        return watchdog.Actions(
            dead=dead,
            living=lambda: {"a", "b"},
            started=lambda: 2,
            beats=lambda: self.count,
            stacks=lambda: ({"worker-7": "a stack"}, []),
            interrupt=lambda: self.did.append("interrupt"),
            leave=lambda: self.did.append("leave"),
            say=say,
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TICK_S": 0.02, "LOOK_S": 0.02, "LEAVE_S": 0.1}.items():
        monkeypatch.setattr(watchdog, name, value)


def made(world: World, folder: Path, **settings: object) -> watchdog.Watchdog:
    values = WatchdogSettings(**{"limit_s": 0.2, "start_up_limit_s": 0.2, "dead_process_s": 0.05, **settings})
    return watchdog.Watchdog(Ledger(values, batch=8), values, world.actions(), [folder])


def wait(until: object, limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stall_is_reported_then_the_main_thread_interrupted_then_the_process_ended(world, tmp_path) -> None:
    dog = made(world, tmp_path)
    dog.start()
    wait(lambda: "leave" in world.did)
    assert world.did == ["interrupt", "leave"]
    assert "phase 'start-up' has made no progress" in world.said
    (file,) = tmp_path.glob("*/worker-7.txt")
    assert file.read_text() == "a stack"
    assert "made no progress" in (file.parent / "report.txt").read_text()
    assert str(dog.error()).endswith(f"(the limit is 0.2 s); report and stacks are in {file.parent}")


def test_a_main_thread_that_ends_in_time_is_not_ended(world, tmp_path) -> None:
    dog = made(world, tmp_path)
    dog.start()
    wait(lambda: "interrupt" in world.did)
    dog.stop()
    time.sleep(0.3)
    assert world.did == ["interrupt"]


def test_a_run_that_ends_is_left_alone(world, tmp_path) -> None:
    dog = made(world, tmp_path)
    dog.start()
    dog.stop()
    time.sleep(0.5)
    assert (world.did, world.said) == ([], "")


def test_a_death_is_announced_at_once_and_ends_the_run_after_its_grace(world, tmp_path) -> None:
    dog = made(world, tmp_path, limit_s=60, start_up_limit_s=60)
    dog.train()
    world.died = [("x", "the actor X", "it was killed.")]
    dog.start()
    wait(lambda: "the actor X died in phase 'training': it was killed." in world.said)
    wait(lambda: dog.verdict is not None)
    assert (dog.verdict.kind, dog.verdict.phase) == ("died", TRAINING)
    assert world.vital == {"a", "b"}, "what comes to be during training is not verl's"
    assert world.said.count("it was killed. If verl does not end the run by itself") == 1


def test_micro_batches_of_the_workers_are_progress(world, tmp_path) -> None:
    dog = made(world, tmp_path)
    dog.train()
    dog.start()
    for _ in range(30):
        world.count += 1
        time.sleep(0.02)
    assert dog.verdict is None
    wait(lambda: dog.verdict is not None)
    assert dog.verdict.last == "a micro-batch was done"
    dog.stop()


def test_stacks_that_cannot_be_had_do_not_hold_the_end_up(world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(watchdog, "STACKS_S", -4.8)
    dog = made(world, tmp_path)
    dog._do.stacks = lambda: time.sleep(3) or ({}, [])
    dog.start()
    wait(lambda: "leave" in world.did, limit_s=2)
    assert "not all stacks were to be had" in world.said


def test_an_error_while_stacks_are_taken_is_part_of_the_report(world, tmp_path) -> None:
    def fails() -> tuple[dict[str, str], list[str]]:
        raise ConnectionError("the store is gone")

    dog = made(world, tmp_path)
    dog._do.stacks = fails
    dog.start()
    wait(lambda: "leave" in world.did)
    assert "stacks   not to be had: ConnectionError: the store is gone" in world.said


def test_a_ray_that_does_not_answer_is_said_once_and_the_clock_goes_on(world, tmp_path) -> None:
    def fails(vital: object) -> list:
        raise ConnectionError("the store is gone")

    dog = made(world, tmp_path)
    dog._do.dead = fails
    dog.start()
    wait(lambda: "leave" in world.did)
    assert world.said.count("Ray cannot be asked who died: ConnectionError: the store is gone") == 1


def test_stacks_of_a_run_that_writes_a_checkpoint_go_elsewhere_first(world, tmp_path) -> None:
    """The disk of the checkpoints may be what it hangs on."""
    dog = made(world, tmp_path / "run")
    dog._folders = [tmp_path / "run", tmp_path / "temporary"]
    with dog.ledger.phase("save_checkpoint"):
        dog.start()
        wait(lambda: "leave" in world.did)
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "temporary").glob("*/worker-7.txt"))


BLOCKED = """
import ctypes, queue, sys, threading, time
from verl_ext.run.watchdog.interrupt import Interrupter, leave
interrupter = Interrupter()
def later():
    time.sleep(0.5)
    interrupter.raise_in_main()
    time.sleep(2)
    leave()
threading.Thread(target=later, daemon=True).start()
def wait():
    {wait}
began = time.monotonic()
try:
    wait()
except KeyboardInterrupt:
    print(f"interrupted after {{time.monotonic() - began:.1f}}")
"""


@pytest.mark.parametrize(
    "wait",
    ["time.sleep(60)", "queue.Queue().get()", "threading.Event().wait()", "while True: time.time()"],
)
def test_a_main_thread_that_blocks_is_interrupted(wait: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(wait=wait)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("interrupted after ")


def test_a_main_thread_blocked_in_c_is_ended_with_its_process() -> None:
    program = BLOCKED.format(wait="ctypes.CDLL(None).sem_wait(ctypes.create_string_buffer(64)); time.sleep(60)")
    program = program.replace("try:", "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntry:")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_no_phase_where_nobody_watches() -> None:
    assert watchdog.current() is None
    with watchdog.phase("gen"):
        pass

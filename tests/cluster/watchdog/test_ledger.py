"""The state machine, on a clock that the test turns."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.run.watchdog.ledger import SHUT_DOWN, TRAINING, Ledger
from verl_ext.run.watchdog.settings import WatchdogSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ledger(clock: Clock, training: bool = True, **given: object) -> Ledger:
    made = Ledger(WatchdogSettings(**{"limit_s": 100, "dead_process_s": 20, **given}), batch=8, clock=clock)
    if training:
        made.become(TRAINING)
    return made


def test_a_phase_without_progress_ends_after_its_limit_and_no_earlier(clock: Clock) -> None:
    book = ledger(clock)
    with book.phase("step"), book.phase("update_actor"):
        clock.now += 100
        assert book.verdict() is None
        clock.now += 0.5
        verdict = book.verdict()
    assert verdict is not None
    assert (verdict.kind, verdict.phase, verdict.outer) == ("stalled", "update_actor", (TRAINING, "step"))
    assert (verdict.phase_s, verdict.idle_s, verdict.limit_s) == (100.5, 100.5, 100)
    assert verdict.last == "update_actor began"


def test_each_beginning_and_end_of_a_phase_is_progress(clock: Clock) -> None:
    book = ledger(clock)
    for _ in range(5):
        clock.now += 90
        with book.phase("gen"):
            clock.now += 90
            assert book.verdict() is None
    clock.now += 3 * 90 + 1
    verdict = book.verdict()
    assert verdict is not None
    assert verdict.last == "gen ended"


def test_a_phase_that_was_left_by_an_error_is_over(clock: Clock) -> None:
    book = ledger(clock)
    with pytest.raises(KeyError), book.phase("step"), book.phase("gen"):
        raise KeyError
    assert book.where == TRAINING


def test_limits_of_start_up_and_shut_down_are_their_own(clock: Clock) -> None:
    book = ledger(clock, training=False, start_up_limit_s=500, shut_down_limit_s=50)
    with book.phase("update_weights"):
        clock.now += 499
        assert book.verdict() is None
        clock.now += 2
        assert book.verdict().limit_s == 500
    book.become(TRAINING)
    book.become(SHUT_DOWN)
    clock.now += 49
    assert book.verdict() is None
    clock.now += 2
    assert book.verdict().phase == SHUT_DOWN


def test_a_phase_that_went_on_after_a_long_wait_is_given_three_times_as_much(clock: Clock) -> None:
    """90 s of waiting in update_actor: from then on 270 s there, and still 100 s elsewhere."""
    book = ledger(clock)
    with book.phase("update_actor"):
        clock.now += 90
    with book.phase("update_actor"):
        clock.now += 269
        assert book.verdict() is None
        clock.now += 2
        assert book.verdict().limit_s == 270
    with book.phase("ref"):
        clock.now += 101
        assert book.verdict().limit_s == 100


def test_rollouts_that_arrive_are_progress(clock: Clock) -> None:
    book = ledger(clock)
    with book.phase("gen"):
        # Of each look: groups kept, responses, groups in flight. Every one passes one of them.
        for kept, rows, in_flight in [(0, 0, 8), (0, 1, 8), (0, 1, 7), (1, 1, 7), (1, 2, 7), (1, 2, 6)]:
            book.groups(kept, rows, in_flight)
            clock.now += 33  # three times that is below the limit
            assert book.verdict() is None
        clock.now += 68  # 33 + 68 > 100
        assert book.verdict().last == "6 groups were left in flight"


def test_a_first_look_is_no_progress_and_nor_is_one_that_finds_the_same(clock: Clock) -> None:
    book = ledger(clock)
    with book.phase("gen"):
        for _ in range(11):
            assert book.verdict() is None
            book.groups(kept=3, rows=12, in_flight=5)
            clock.now += 10
        verdict = book.verdict()
    assert (verdict.last, verdict.idle_s) == ("gen began", 110)


def test_replacing_groups_for_ever_is_no_progress(clock: Clock) -> None:
    """Groups of 4 of which one response always fails: rows come and go, in flight stays; nothing is ever kept."""
    book, draw = ledger(clock, failed_batches=None), random.Random(0)
    with book.phase("gen"):
        for _look in range(2000):
            clock.now += 2
            book.groups(kept=0, rows=draw.randint(0, 24), in_flight=draw.randint(6, 8))
            book.failed(2)
            if book.verdict() is not None:
                break
        verdict = book.verdict()
    assert verdict is not None
    assert verdict.kind == "stalled"
    assert verdict.phase_s < 25 * 100, "at most one mark for each row there can be"
    assert verdict.failed == 2 * round(verdict.phase_s / 2)


def test_so_many_failed_groups_in_a_row_end_the_run_at_once(clock: Clock) -> None:
    book = ledger(clock, failed_batches=2)  # of 8 groups: 16
    with book.phase("gen"):
        book.failed(15)
        assert book.verdict() is None
        book.groups(kept=1, rows=4, in_flight=8)  # one was kept: counted anew
        book.failed(15)
        assert book.verdict() is None
        book.failed(1)
        verdict = book.verdict()
    assert (verdict.kind, verdict.failed) == ("failing", 16)


def test_marks_are_those_of_one_phase(clock: Clock) -> None:
    book = ledger(clock)
    with book.phase("testing"):
        for _batch in range(3):
            with book.phase("testing"):
                clock.now += 60
                book.groups(kept=0, rows=0, in_flight=2)
                clock.now += 60
                book.groups(kept=2, rows=8, in_flight=0)
                assert book.verdict() is None


def test_a_death_gives_the_run_its_grace_and_no_more(clock: Clock) -> None:
    book = ledger(clock)
    with book.phase("gen"):
        (fresh,) = book.died([("a", "the actor A", "killed")])
        assert (fresh.who, book.died([("a", "the actor A", "killed")])) == ("the actor A", [])
        clock.now += 20
        book.groups(kept=5, rows=20, in_flight=1)  # others still work: it does not matter
        assert book.verdict() is None
        clock.now += 1
        verdict = book.verdict()
    assert (verdict.kind, verdict.limit_s, verdict.deaths[0].why) == ("died", 20, "killed")


def test_a_death_does_not_end_the_writing_of_a_checkpoint(clock: Clock) -> None:
    book = ledger(clock)
    with book.phase("save_checkpoint"):
        book.died([("a", "the actor A", "killed")])
        clock.now += 99
        assert book.verdict() is None
        clock.now += 2
        assert book.verdict().kind == "stalled"
    assert book.verdict().kind == "died"


def test_a_run_that_is_winding_up_is_not_ended_for_deaths(clock: Clock) -> None:
    book = ledger(clock)
    book.died([("a", "the actor A", "killed")])
    book.become(SHUT_DOWN)
    clock.now += 200
    assert book.verdict() is None


@given(st.lists(st.tuples(st.floats(0, 99), st.booleans()), max_size=40))
def test_a_run_that_moves_within_the_limit_is_never_ended(steps: list[tuple[float, bool]]) -> None:
    clock = Clock()
    book, rows = ledger(clock), 0
    with book.phase("gen"):
        book.groups(kept=0, rows=0, in_flight=8)
        for wait, row in steps:
            clock.now += wait
            assert book.verdict() is None
            if row:
                rows += 1
                book.groups(kept=0, rows=rows, in_flight=8)
            else:
                with book.phase("data"):
                    pass

"""The arithmetic of the paired ratios, on made-up clocks; nothing here is timed."""

import time
from collections.abc import Callable

import pytest

from benchmarks.paired import Comparison, bootstrap_interval, judge, paired_ratios


class Machine:
    """A clock that steps advance by hand; `speed` may change from one step to the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slowdown: Callable[[int], float] = lambda _: 1.0) -> None:
        self.now, self.steps, self.order, self.slowdown = 0.0, 0, "", slowdown
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def step(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds * self.slowdown(self.steps)
            self.steps += 1
            self.order += name

        return run


def test_rounds_are_a_b_b_a_and_two_are_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slowdown=lambda step: 100.0 if step < 8 and step % 4 == 0 else 1.0)
    ratios = paired_ratios(machine.step("A", 3.0), machine.step("B", 2.0), rounds=8)
    assert machine.order == "ABBA" * 10
    assert ratios == [1.5] * 8  # (3 + 3) / (2 + 2); the first A of each warm-up took a hundred times as long


def test_a_steady_drift_cancels_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps 4i to 4i+3 take 1 + 4i k ... 1 + (4i+3) k: the outer two add up to the same as the inner two.
    machine = Machine(monkeypatch, slowdown=lambda step: 1 + 0.01 * step)
    assert paired_ratios(machine.step("A", 1.0), machine.step("B", 1.0), rounds=8) == pytest.approx([1.0] * 8)


def test_the_device_is_waited_for_before_each_reading_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    queued: list[float] = []

    def wait() -> None:
        machine.now += sum(queued)
        queued.clear()

    ratios = paired_ratios(lambda: queued.append(4.0), lambda: queued.append(2.0), rounds=8, wait=wait)
    assert ratios == [2.0] * 8


def test_fewer_than_eight_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="7 rounds are too few"):
        paired_ratios(lambda: None, lambda: None, rounds=7)


def test_interval_holds_the_median_and_narrows_with_the_spread() -> None:
    wide, narrow = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0] * 4), bootstrap_interval([2.9, 3.0, 3.1] * 7)
    assert wide[0] < 3.0 < wide[1]
    assert wide[0] < narrow[0] <= 3.0 <= narrow[1] < wide[1]


def test_interval_of_two_values_by_hand() -> None:
    # Medians of two draws out of {1, 3}: 1, 2, 2, 3 with equal probability, so 2.5% and 97.5% are 1 and 3.
    assert bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("value", "least", "limit", "verdict"),
    [
        (1.4, 1.3, 1.5, "kept"),
        (1.5, 1.4, 1.5, "kept"),
        (1.6, 1.5, 1.5, "kept (within the noise)"),
        (1.6, 1.51, 1.5, "missed"),
        (9.0, 9.0, None, "-"),
    ],
)
def test_a_limit_is_missed_only_by_the_whole_interval(
    value: float, least: float, limit: float | None, verdict: str
) -> None:
    assert judge(value, least, limit) == verdict


def test_a_comparison_reports_its_median() -> None:
    comparison = Comparison("ours", "theirs", [1.0, 1.1, 9.0], limit=1.5)
    assert comparison.ratio == 1.1
    assert comparison.verdict == "kept"

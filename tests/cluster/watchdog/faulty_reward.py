"""Reward code that never returns, and reward code that always fails."""

from __future__ import annotations

import time

import watchdog_faults


def sleeps_for_ever(data_source, solution_str, ground_truth, extra_info=None, **_):
    watchdog_faults.note()
    while True:
        time.sleep(60)


def always_raises(data_source, solution_str, ground_truth, extra_info=None, **_):
    watchdog_faults.note()
    raise RuntimeError("the grader is broken, as asked")

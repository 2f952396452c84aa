"""Reward functions of all kinds, for the probe's tests; loaded in its child only."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path


def judging(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    return {"score": float(ground_truth in solution_str) + bonus, "verified": bool(solution_str)}


def number(data_source, solution_str, ground_truth, extra_info=None):
    return float(ground_truth in solution_str)


async def awaited(solution_str, **_):
    await asyncio.sleep(0.001)
    return bool(solution_str)


def zero(**_):
    return 0


def penalised(solution_str, **_):
    return -1.0 if solution_str else 0.0


def nothing(**_):
    return None


def text(**_):
    return "1.0"


def pair(**_):
    return (1.0, {})


def no_score(**_):
    return {"acc": 1.0}


def text_score(**_):
    return {"score": "1.0"}


def not_a_number(**_):
    return float("nan")


def forgotten_await(**_):
    async def later():
        return 1.0

    return later()


def raises(**_):
    return 1 / 0


def leaves(**_):
    raise SystemExit(3)


def dies(**_):
    os._exit(3)


def raises_on_empty(solution_str, **_):
    return float(solution_str[0] == "\\")


def narrow(solution_str, ground_truth):
    return 1.0


def alarmed(**_):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return 1.0


def router(solution_str, reward_router_address=None, **_):
    raise AssertionError("it must not be called")


def sees(data_source, solution_str, ground_truth, extra_info=None, out=""):
    with Path(out).open("a") as lines:
        lines.write(f"{data_source}|{solution_str}|{ground_truth}|{sorted(extra_info)}\n")
    return float(bool(solution_str))


def hangs(mark, **_):
    subprocess.Popen(["setsid", "--fork", "sleep", mark])
    time.sleep(1000)


def begets(mark, solution_str, **_):
    subprocess.Popen(["setsid", "--fork", "sleep", mark])
    return len(solution_str)

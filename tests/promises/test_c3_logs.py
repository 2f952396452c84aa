"""No log is written over: every attempt at a run has its own, and a process adds to what it finds."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.train import scripted
from verl_ext.process import ProcessFamily


def test_a_second_attempt_leaves_the_first_ones_log_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one is refused by the trainer after it has started: the finished run's record must stay."""
    finished = "print('step:1 - critic/rewards/mean:0.5 - timing_s/step:1.0')"
    assert scripted.train(finished, tmp_path, monkeypatch)[0] == 0
    assert scripted.train("raise SystemExit('refused')", tmp_path, monkeypatch)[0] == 1
    logs = {file.name: file.read_text() for file in tmp_path.glob("*.log")}
    assert logs == {
        "train.1.log": "step:1 - critic/rewards/mean:0.5 - timing_s/step:1.0\n",
        "train.2.log": "refused\n",
    }


def test_no_process_truncates_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    family = ProcessFamily([sys.executable, "-c", "print('after')"], dict(os.environ), log)
    while family.poll() is None:
        time.sleep(0.01)
    family.end()
    assert log.read_text() == "before\nafter\n"

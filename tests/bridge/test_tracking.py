"""wandb hears of our metrics where verl opens it, and is not touched where verl does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from verl.utils.tracking import Tracking

from verl_ext.live.logs import STEP_LINES, read_step
from verl_ext.run_report import wandb_panels


@pytest.fixture
def defined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(wandb_panels, "define", found.append)
    return found


def test_wandb_is_told_once_after_it_was_opened(defined: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []

    def init(**given: Any) -> None:
        assert defined == []
        opened.append(given)

    wandb = SimpleNamespace(init=init, finish=lambda exit_code: None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    tracking = Tracking("project", "run", ["console", "wandb"], config={"trainer": {}})
    assert [(given["project"], given["name"]) for given in opened] == [("project", "run")]
    assert defined == [wandb]
    assert list(tracking.logger) == ["wandb", "console"]
    tracking.finish()


def test_other_loggers_are_left_alone(defined: list[Any]) -> None:
    assert list(Tracking("project", "run", "console").logger) == ["console"]
    assert defined == []


@pytest.mark.parametrize("backends", [[], ["file"], ["console"], ["console", "file"]])
def test_a_log_that_is_read_has_every_step_once(
    backends: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    for asked, expected in ((False, int("console" in backends)), (True, 1)):
        with monkeypatch.context() as environment:
            if asked:
                environment.setenv(STEP_LINES, "1")
            tracking = Tracking("project", "run", backends)
            tracking.log(data={"critic/rewards/mean": np.float64(0.1), "words": "x"}, step=3)
            tracking.finish()
        found = [record for line in capsys.readouterr().out.splitlines() if (record := read_step(line))]
        assert [(one.step, one.values) for one in found] == [(3, {"critic/rewards/mean": 0.1})] * expected


def test_without_wandb_it_is_not_even_imported() -> None:
    script = """
import sys
from verl.utils.tracking import Tracking
Tracking("project", "run", ["console"])
assert hasattr(Tracking.__init__, "__wrapped__")
assert "wandb" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

"""verl's loggers: the file goes on where it was, wandb hears of our metrics where verl opens it and only there."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from verl.utils import tracking as verls
from verl.utils.tracking import Tracking

from verl_ext.live.logs import STEP_LINES
from verl_ext.run_report import wandb_panels
from verl_ext.run_report.console_log import read_step


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
from verl.utils import tracking as verls
from verl.utils.tracking import Tracking
Tracking("project", "run", ["console"])
assert hasattr(Tracking.__init__, "__wrapped__")
assert "wandb" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def logged(file: Path, *steps: int) -> None:
    """What one process logs."""
    tracking = Tracking("project", "run", ["file"])
    for step in steps:
        tracking.log({"a": float(step)}, step=step)
    tracking.finish()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_further_attempt_appends_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(file))
    logged(file, 1, 2)
    logged(file)  # it failed before its first step
    logged(file, 2, 3)
    assert [(line["attempt"], line["step"]) for line in lines(file)] == [(1, 1), (1, 2), (2, 2), (2, 3)]


@pytest.mark.parametrize("place", ["root", "path"])
def test_where_the_file_lies_is_for_verl_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.delenv("VERL_FILE_LOGGER_PATH", raising=False)
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    file = tmp_path / "project" / "run.jsonl"
    if place == "path":
        file = tmp_path / "other.jsonl"
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(file))
    for _ in range(2):
        logged(file, 1)
    assert [line["attempt"] for line in lines(file)] == [1, 2]


def test_after_a_half_written_line_the_next_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(file))
    file.write_text('{"step": 1, "attempt": 3, "data": {}}\n{"step": 2, "attempt": 3, "da')
    logged(file, 2)
    assert file.read_text().splitlines()[1] == '{"step": 2, "attempt": 3, "da'
    assert json.loads(file.read_text().splitlines()[2]) == {"step": 2, "attempt": 4, "data": {"a": 2.0}}


def test_a_log_of_an_older_release_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(file))
    file.write_text('{"step": 1, "data": {}}\n{"step": 2, "data": {}}\n{"step": 1, "data": {}}\n')
    logged(file, 2)
    assert lines(file)[-1]["attempt"] == 3


def test_a_place_that_is_no_file_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", "/dev/null")
    logged(Path("/dev/null"), 1)


def test_verl_opens_one_binary_file_there() -> None:
    """What `open` in its module stands for is the file logger's alone; else another file would be appended to."""
    source = inspect.getsource(verls)
    assert source.count('"wb"') == 1
    assert 'self.fp = open(self.filepath, "wb", buffering=0)' in inspect.getsource(
        verls.FileLogger.__init__.__wrapped__
    )

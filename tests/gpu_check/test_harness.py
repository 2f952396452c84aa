"""Child processes, time limits, crashes, and the JSON; no GPU needed."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from verl_ext.gpu_check import child, command, harness
from verl_ext.gpu_check.command import Request
from verl_ext.gpu_check.machine import Machine, look
from verl_ext.gpu_check.outcome import CheckError, SkipError
from verl_ext.gpu_check.table import CHECKS, Check

HERE = "tests.gpu_check.specimens"
NOTHING = Machine([], None, {}, why_none="torch 2 is built without CUDA")
ONE = Machine([{"name": "H200", "memory_gib": 140.0, "capability": "9.0"}], "12.8", {})


def check(name: str, limit_s: float = 60, gpus: int = 1) -> Check:
    return Check(name, f"{HERE}:{name}", f"says {name}", limit_s, gpus)


# What each specimen does, and the status and words that must come of it.
ENDINGS = {
    "fine": ("ok", ""),
    "wrong": ("failed", "found 2, wanted 1"),
    "lacking": ("skipped", "no such chip"),
    "raising": ("failed", "ZeroDivisionError"),
    "killed": ("failed", "ended by signal 9"),
    "leaving": ("failed", "ended with status 3"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_each_way_in_which_a_check_ends(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_specimens(monkeypatch)
    outcome = harness.run(check(name), "cpu", tmp_path)
    status, words = ENDINGS[name]
    assert outcome.status == status, outcome
    assert words in outcome.why
    assert outcome.figures == ({"device": "cpu", "answer": 42} if name == "fine" else {})
    assert outcome.seconds > 0
    if name in ("killed", "leaving"):
        assert "the last words" in outcome.why
        assert str(tmp_path / f"{name}.log") in outcome.why


def test_a_check_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_specimens(monkeypatch)
    begun = time.monotonic()
    outcome = harness.run(check("hanging", limit_s=4), "cpu", tmp_path)
    assert outcome.status == "failed"
    assert "still running after 4 s" in outcome.why
    assert time.monotonic() - begun < 40
    (pid,) = [int(line.split()[1]) for line in (tmp_path / "hanging.log").read_text().splitlines() if "child" in line]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_answer_of_an_earlier_run_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_specimens(monkeypatch)
    (tmp_path / "leaving.json").write_text('{"status": "ok", "why": "", "figures": {}}')
    assert harness.run(check("leaving"), "cpu", tmp_path).status == "failed"


def test_one_that_fails_does_not_keep_the_next_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_specimens(monkeypatch)
    seen: list[str] = []
    outcomes = harness.run_all(
        [check("killed"), check("fine")], NOTHING, "cpu", tmp_path, lambda outcome: seen.append(outcome.name)
    )
    assert [outcome.status for outcome in outcomes] == ["failed", "ok"]
    assert seen == ["killed", "fine"]


def with_specimens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child looks a name up in a table; here in one that has the specimens too."""
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, str(Path(__file__).parent)]))
    program = f"{Path(__file__).parent}/with_specimens.py"
    original = harness.ProcessFamily

    def start(given: list[str], env: dict[str, str], log: Path) -> Any:
        return original([sys.executable, program, *given[3:]], env, log)

    monkeypatch.setattr(harness, "ProcessFamily", start)


# --- what is missing


def test_what_a_machine_lacks() -> None:
    assert harness.missing(check("fine"), NOTHING, "cuda") == "no GPU: torch 2 is built without CUDA"
    assert harness.missing(check("fine"), ONE, "cuda") == ""
    assert harness.missing(check("fine", gpus=2), ONE, "cuda") == "needs 2 GPUs, here is 1"
    assert harness.missing(check("fine", gpus=2), NOTHING, "cpu") == ""


def test_the_child_tells_the_three_endings_apart() -> None:
    def ending(error: Exception) -> dict[str, Any]:
        def function(device: str) -> dict[str, Any]:
            raise error

        class Made(Check):
            def load(self) -> Any:
                return function

        return child.run(Made("x", "", "", 1), "cpu")

    assert ending(CheckError("a"))["status"] == "failed"
    assert ending(SkipError("b")) == {"status": "skipped", "why": "b", "figures": {}}
    assert ending(KeyError("c"))["why"] == "KeyError: 'c'"


def test_looking_a_machine_up_says_why_there_is_no_gpu() -> None:
    machine = look()
    assert machine.versions["verl"] == "0.9.1"
    if not machine.gpus:
        assert "CUDA" in machine.why_none or "cuda" in machine.why_none


# --- the command


def run(request: Request) -> tuple[int, str]:
    console = Console(width=200, record=True, highlight=False, file=open(os.devnull, "w"))  # noqa: SIM115
    return command.run(request, console), console.export_text()


def test_without_a_gpu_everything_is_skipped_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "look", lambda: NOTHING)
    begun = time.monotonic()
    status, said = run(Request(out=tmp_path / "deep" / "result.json"))
    assert status == 1
    assert time.monotonic() - begun < 5
    assert "no GPU: torch 2 is built without CUDA; every check is skipped" in said
    found = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert [one["name"] for one in found["checks"]] == list(CHECKS)
    assert {one["status"] for one in found["checks"]} == {"skipped"}
    assert all(one["why"].startswith("no GPU") for one in found["checks"])
    assert found["machine"]["gpus"] == []
    assert found["device"] == "cuda"


@pytest.mark.parametrize(
    ("statuses", "wanted"), [(["ok", "ok"], 0), (["ok", "skipped"], 0), (["ok", "failed"], 1), (["skipped"] * 2, 1)]
)
def test_the_exit_status(statuses: list[str], wanted: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from verl_ext.gpu_check.outcome import Outcome

    names = list(CHECKS)[:2]
    made = [Outcome(name, status, figures={"rows": 3}) for name, status in zip(names, statuses, strict=True)]
    monkeypatch.setattr(command, "look", lambda: ONE)
    monkeypatch.setattr(command, "run_all", lambda checks, *_: made)
    status, _ = run(Request(out=tmp_path / "result.json", only=names))
    assert status == wanted
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["machine"]["gpus"][0]["name"] == "H200"
    assert content["checks"][0]["figures"] == {"rows": 3}


def test_a_name_that_is_no_check(tmp_path: Path) -> None:
    status, said = run(Request(out=tmp_path / "result.json", only=["lossess"]))
    assert status == 2
    assert "--only lossess: no such check; there is: software, losses," in said
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_a_real_check_goes_through_the_whole_command(tmp_path: Path) -> None:
    status, said = run(Request(out=tmp_path / "result.json", only=["estimators"], logs=tmp_path, device="cpu"))
    found = json.loads((tmp_path / "result.json").read_text())
    assert status == 0, found
    assert found["checks"][0]["figures"]["calls"] > 10
    assert found["device"] == "cpu"
    assert "ok      estimators" in said

"""On a real Ray: which deaths count, whose stacks are to be had, and that a blocked main thread is ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.trainer import one_at_a_time

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("probe")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "ray_probe.py"), str(folder / "found.json"), str(folder / "run")]
    with one_at_a_time():
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {**json.loads((folder / "found.json").read_text()), "log": done.stdout + done.stderr, "folder": folder}


def test_only_deaths_that_nobody_asked_for_count(found: dict[str, Any]) -> None:
    """An actor that Ray restarts, one that was killed through Ray, left by itself or was let go of is no fault."""
    who = " ".join(text for _, text, _ in found["deaths"]["dead"])
    assert "probe_killed" in who
    assert "probe_unborn" in who
    for way in ("ray_kill", "exit_actor", "sys_exit", "out_of_scope", "restarts", "ignored", "sleeper"):
        assert f"probe_{way}'" not in who, who
    (why,) = [why for _, text, why in found["deaths"]["dead"] if "probe_unborn" in text]
    assert "it was not to be" in why


def test_a_death_is_seen_within_seconds_and_only_if_vital(found: dict[str, Any]) -> None:
    assert found["deaths"]["seen"] < 5
    assert [who for _, who, _ in found["deaths"]["vital"]] == ["a process"], "what is reported always counts"


def test_actors_that_are_still_starting_count_as_well(found: dict[str, Any]) -> None:
    """verl's training begins while its agent loop workers import; a later death of one must not go unseen."""
    assert found["deaths"]["not_running_yet"] > 0
    assert found["deaths"]["asked_for"] == 9
    assert found["deaths"]["killed_counts"]


def test_reports_of_others_and_beats_arrive(found: dict[str, Any]) -> None:
    assert ["x:1", "a process", "it ended"] in [
        [key.rsplit("death:", 1)[-1], who, why] for key, who, why in found["deaths"]["dead"]
    ]
    assert found["deaths"]["beats"] == 5 + 2


def test_stacks_of_a_sleeping_actor_name_the_function(found: dict[str, Any]) -> None:
    (text,) = [text for name, text in found["deaths"]["stacks"].items() if name.startswith("probe_sleeper")]
    assert "sleep_for_ever_in_a_probe" in text
    assert found["deaths"]["silent"] == []


def test_a_main_thread_blocked_in_ray_ends_with_our_error(found: dict[str, Any]) -> None:
    blocked = found["blocked"]
    assert "WatchdogError" in blocked["text"]
    assert "phase 'start-up' has made no progress for" in blocked["text"]
    assert blocked["seconds"] < 60
    assert "verl_ext watchdog: the run is ended" in found["log"]


def test_a_main_thread_that_takes_no_signal_is_ended_with_its_process(found: dict[str, Any]) -> None:
    assert "ActorDied" in found["stubborn"]["kind"] or "died" in found["stubborn"]["text"]
    assert "the main thread did not end within" in found["log"]
    assert found["stubborn"]["seconds"] < 90


def test_the_report_and_the_stacks_are_on_disk(found: dict[str, Any]) -> None:
    reports = sorted((found["folder"] / "run" / "watchdog").glob("*/report.txt"))
    assert len(reports) == 2
    texts = [file.read_text() for file in reports[0].parent.glob("*.txt")]
    assert any("sleep_for_ever_in_a_probe" in text for text in texts)

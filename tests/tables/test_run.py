"""Stages: done once, done again only when asked, and one failing row does not stop the others."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tables
from rich.console import Console

from verl_ext.tables.job import Job
from verl_ext.tables.run import run_jobs
from verl_ext.tables.stages import STAGES, Stage
from verl_ext.tables.work import StageError, key_of


class Bench:
    """Stand-ins for the stages: settings to depend on, a record of what was done, and faults to raise."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.done: list[str] = []
        self.raises: dict[str, BaseException] = {}

    def stage(self, name: str, cheap: bool) -> Stage:
        return Stage(
            lambda job: {"setting": {"value": self.settings.get(name, 0)}},
            self.perform(name),
            lambda job: self.file(job, name).exists(),
            lambda job: self.file(job, name).parent,
            cheap,
        )

    @staticmethod
    def file(job: Job, name: str) -> Path:
        return job.work.folder / name / "made"

    def perform(self, name: str) -> Callable[..., None]:
        def act(job: Job, outputs: dict[str, Any], console: Console) -> None:
            if (job.row.name, name) in self.raises:
                raise self.raises[job.row.name, name]
            self.done.append(f"{job.row.name} {name}")
            self.file(job, name).parent.mkdir(parents=True, exist_ok=True)
            self.file(job, name).touch()
            if name == "result":
                job.work.result_file.write_text("{}")

        return act

    def run(self, jobs: list[Job], **options: Any) -> tuple[int, str]:
        sink = io.StringIO()
        self.done.clear()
        return run_jobs(jobs, Console(file=sink, width=200), **options), sink.getvalue()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    for name in STAGES:
        monkeypatch.setitem(STAGES, name, made.stage(name, cheap=name in ("data", "result")))
    return made


def test_stages_are_done_once(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    assert bench.run([one])[0] == 0
    assert bench.done == ["one data", "one train", "one export", "one evaluate", "one result"]
    status, text = bench.run([one])
    assert (status, bench.done) == (0, [])
    assert "done before" in text


def test_a_row_that_is_not_trained_has_no_training(bench: Bench, tmp_path: Path) -> None:
    bench.run([tables.job(tmp_path, "base")])
    assert bench.done == ["base data", "base evaluate", "base result"]


def test_changed_settings_are_not_taken_for_done(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    bench.run([one])
    bench.settings["export"] = 5
    status, text = bench.run([one])
    assert (status, bench.done) == (1, [])
    assert "setting.value was 0 and is now 5" in text
    assert "--force" in text
    status, _ = bench.run([one], force=True)
    assert (status, bench.done) == (0, ["one export", "one evaluate", "one result"])


def test_settings_of_cheap_stages_may_change(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    bench.run([one])
    bench.settings["result"] = 1
    assert bench.run([one])[0] == 0
    assert bench.done == ["one result"]


def test_redoing_from_a_stage_on(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    bench.run([one])
    bench.run([one], again="evaluate")
    assert bench.done == ["one evaluate", "one result"]
    status, text = bench.run([tables.job(tmp_path, "base")], again="train")
    assert status == 1
    assert "a row of kind evaluate has no stage train" in text


def test_a_failing_row_is_reported_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    bench.raises["one", "train"] = StageError("the trainer failed", ["RuntimeError: out of memory"])
    status, text = bench.run([tables.job(tmp_path, "one"), tables.job(tmp_path, "base")])
    assert status == 1
    assert bench.done == ["one data", "base data", "base evaluate", "base result"]
    assert "p/t/one seed 1 failed: the trainer failed" in text
    assert "RuntimeError: out of memory" in text
    assert "1 of 2 failed" in text


def test_an_interrupted_row_goes_on_where_it_stood(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    bench.raises["one", "train"] = KeyboardInterrupt()
    status, _ = bench.run([one, tables.job(tmp_path, "base")])
    assert (status, bench.done) == (130, ["one data"])
    assert one.work.stages()["train"]["state"] == "begun"
    bench.raises.clear()
    assert bench.run([one])[0] == 0
    assert bench.done == ["one train", "one export", "one evaluate", "one result"]
    assert one.work.stages()["train"]["attempts"] == 2


def test_an_interrupted_training_is_not_resumed_with_other_settings(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    bench.raises["one", "train"] = KeyboardInterrupt()
    bench.run([one])
    bench.raises.clear()
    bench.settings["train"] = "other"
    status, text = bench.run([one])
    assert status == 1
    assert "setting.value was 0 and is now other" in text


def test_weights_of_a_finished_row_may_be_deleted(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    bench.run([one])
    bench.file(one, "export").unlink()
    assert bench.run([one])[0] == 0
    assert bench.done == []
    bench.settings["evaluate"] = 1  # now they are needed again
    bench.run([one], force=True)
    assert bench.done == ["one export", "one evaluate", "one result"]


def test_two_runs_do_not_share_a_folder(bench: Bench, tmp_path: Path) -> None:
    one = tables.job(tmp_path, "one")
    with one.work.locked():
        status, text = bench.run([one])
    assert status == 1
    assert "another run is at work" in text


def test_the_time_of_all_attempts_is_kept(tmp_path: Path) -> None:
    work = tables.job(tmp_path).work
    for seconds in (1.5, 2.25):
        work.begin("train", {"a": 1})
        work.spend("train", seconds)
    work.spend("train", 1.0, {"steps": [1]})
    assert work.stages()["train"]["seconds"] == 4.75
    assert (work.state("train", {"a": 1}), work.state("train", {"a": 2})) == ("done", "changed")


def test_keys() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 1.5})

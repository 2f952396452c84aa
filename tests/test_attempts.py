"""Numbers of attempts: after all that were ever there, and never one twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_ext.run.attempts import logs_in, metrics_of, next_log, number_of


def test_logs_are_numbered_in_order(tmp_path: Path) -> None:
    made = [next_log(tmp_path / "new") for _ in range(11)]
    assert [number_of(log) for log in made] == [*range(1, 12)]
    assert all(log.read_bytes() == b"" for log in made)
    assert logs_in(tmp_path / "new") == made  # 10 after 9


@pytest.mark.parametrize("there", ["train.7.log", "train-7.log", "metrics-7.jsonl"])
def test_a_gap_is_not_filled(tmp_path: Path, there: str) -> None:
    """What is left of attempt 7, by its names today and before, keeps its number."""
    (tmp_path / there).touch()
    assert next_log(tmp_path).name == "train.8.log"


def test_other_files_do_not_count(tmp_path: Path) -> None:
    for name in ("train.log", "train.x.log", "other.9.log", "train.9.log.gz"):
        (tmp_path / name).touch()
    log = next_log(tmp_path)
    assert (log.name, metrics_of(log).name) == ("train.1.log", "metrics-1.jsonl")
    assert logs_in(tmp_path) == [log]


def test_of_two_that_start_together_each_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's log appears after the folder was looked at."""
    (tmp_path / "train.1.log").write_text("the other's")
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))
    assert next_log(tmp_path).name == "train.2.log"
    assert (tmp_path / "train.1.log").read_text() == "the other's"

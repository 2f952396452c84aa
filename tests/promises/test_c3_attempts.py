"""C3: a log is never emptied, and every reader takes the later attempt and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from verl.utils.tracking import Tracking

from tests.cluster.submission.test_supervise import Server, ended, play
from verl_ext.cli import app
from verl_ext.cluster.submission import client
from verl_ext.cluster.submission.environment import Environment
from verl_ext.cluster.submission.job import Job
from verl_ext.run_report.history import History
from verl_ext.run_report.sources import read

ACC = "val-core/x/acc/mean@1"


@pytest.fixture
def stale(tmp_path: Path) -> Path:
    """Ten steps that end with a validation of 99%, then 6 to 12 again without one: step 8 is written as 8.0."""
    lost = [{"step": step, "data": {"reward": 0.9, **({ACC: 0.99} if step == 10 else {})}} for step in range(1, 11)]
    live = [{"step": 8.0 if step == 8 else step, "data": {"reward": 0.1}} for step in range(6, 13)]
    file = tmp_path / "stale.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lost, *live]))
    return file


def test_the_log_goes_on_with_the_number_of_the_attempt(stale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(stale))
    before = stale.read_bytes()
    for _ in range(2):
        tracking = Tracking("project", "run", ["file"])
        tracking.log({"reward": 0.5}, step=12)
        tracking.finish()
    assert stale.read_bytes().startswith(before)
    assert [json.loads(line).get("attempt") for line in stale.read_text().splitlines()[-3:]] == [None, 3, 4]


def test_the_report_does_not_show_the_lost_attempts_validation(stale: Path) -> None:
    (logged,) = read(stale)
    assert logged.history.accuracy() == ([], [])
    assert [record.values["reward"] for record in logged.history.records] == [0.9] * 5 + [0.1] * 7
    said = "attempt 2 of stale.jsonl began at step 6: 5 steps, 6 to 10, of the attempts before it are void"
    assert logged.notes == (said,)
    assert History.read(stale).records == logged.history.records
    page = stale.with_suffix(".html")
    assert CliRunner().invoke(app, ["report", str(stale), "--out", str(page)]).exit_code == 0
    assert said in page.read_text()
    assert "99" not in page.read_text().partition("<h2>Last values</h2>")[2].partition("</table>")[0]


def test_supervise_says_which_steps_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_POLL_S", 0.01)
    killed = (["step:10 - a:1\n"], ended("FAILED", -9))
    job = Job("espo", ("python", "train.py"), Environment({}, {}), max_restarts=1)
    _, _, said = play(job, Server([killed, (["step:6 - a:1\n"], ended())]))
    assert "began at step 6: steps 6 to 10 logged before are void" in said

"""`verl-ext train` shows a line a step, where the log is, a table and a report; with --verbose verl's own log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train import scripted

# As a run's log looks: a dump of the configuration, the number of steps, validation, steps. The script takes a while
# for each step, as the time left is read from a clock.
RUN = """
import time
for key in range(500):
    print(f"(TaskRunnerV1 pid=1) 'key_{key}': None,")
print("(TaskRunnerV1 pid=1) INFO:2026-11-29 12:01:25,925:Total training steps: 2", flush=True)
print("(TaskRunnerV1 pid=1) step:0 - val-core/x/acc/mean@1:np.float64(0.25)", flush=True)
for step in (1, 2):
    time.sleep(0.8)
    print(f"(TaskRunnerV1 pid=1) step:{step} - critic/rewards/mean:{step / 4} - actor/entropy:0.5 - "
          f"actor/pg_clipfrac:0.125 - timing_s/step:3.0", flush=True)
"""
FAILING = """
raise ValueError("no such reward")
"""


def test_a_step_is_a_line_and_the_end_a_table_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = scripted.train(RUN, tmp_path, monkeypatch)
    shown = capsys.readouterr().out
    assert status == 0
    assert f"log: {tmp_path / 'train.1.log'}" in said
    assert "key_7" in (tmp_path / "train.1.log").read_text()
    assert "key_7" not in shown
    steps = [line for line in shown.splitlines() if line.startswith("step ")]
    assert steps[0] == "step 0/2  validation accuracy 25.0%"
    assert steps[1].startswith("step 1/2  reward 0.250  entropy 0.500 nats  clip 12.5%")
    assert steps[1].endswith("s left")
    assert len(steps) == 3
    (rewards,) = [line.split() for line in shown.splitlines() if "reward" in line and not line.startswith("step")]
    assert [word for word in rewards if word[0].isdigit()] == ["0.25", "0.5", "0.375"]  # first, last, mean
    assert f"report: {tmp_path / 'report.html'}" in shown
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_verbose_shows_verls_own_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = scripted.train(RUN.replace("0.8", "0"), tmp_path, monkeypatch, verbose=True)
    shown = capsys.readouterr().out
    assert status == 0
    assert "'key_499': None," in shown
    assert "step 1/2" not in shown
    assert "report: " in shown


def test_a_failure_shows_why_and_where_the_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = scripted.train(FAILING, tmp_path, monkeypatch)
    assert status == 1
    assert "ValueError: no such reward" in said
    assert "Traceback" not in said
    assert f"The whole log: {tmp_path / 'train.1.log'}" in said
    assert "report" not in capsys.readouterr().out

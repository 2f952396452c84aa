"""Running a study: what is done is skipped, one failure does not end it, time is limited; and one cell for real."""

from __future__ import annotations

import dataclasses
import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.e2e.trainer import one_at_a_time
from tests.study.sample import SMALL, written
from tests.study.test_results import RESULT
from verl_ext.batch_file import read_all
from verl_ext.cli import app
from verl_ext.live.progress import RunState, watch
from verl_ext.process import ProcessFamily, run_family
from verl_ext.study.results import Result
from verl_ext.study.run import Places, commit_file, run_cells
from verl_ext.study.schema import Study, read


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read(written(tmp_path / "study", tuning=None))


def finish(study: Study, *names: str) -> None:
    for cell in study.cells():
        if cell.name in names:
            one = dataclasses.replace(RESULT, model=cell.model, method=cell.method.name, seed=cell.seed)
            one.write(cell.result_file)


def test_a_study_that_is_done_starts_nothing(study: Study) -> None:
    finish(study, *(cell.name for cell in study.cells()))
    said = io.StringIO()
    assert run_cells(study.cells(), Places(), False, False, Console(file=said)) == 0
    assert "6 runs, 6 done before" in said.getvalue()


def test_a_configuration_at_fault_fails_its_cell_and_the_others_are_tried(tmp_path: Path) -> None:
    wrong = {name: {**one, "overrides": ["trainer.nnodes=0"]} for name, one in SMALL["methods"].items()}
    study = read(written(tmp_path / "study", methods=wrong, models={"tiny_dense": ["gspo", "espo"]}, seeds=[1]))
    said = io.StringIO()
    cells = study.compared()
    assert run_cells(cells, Places(tmp_path / "out"), False, False, Console(file=said, width=200)) == 1
    assert "tiny_dense/gspo-seed1 failed" in said.getvalue()
    assert "2 failed: tiny_dense/gspo-seed1, tiny_dense/espo-seed1" in said.getvalue()
    assert not any(cell.result_file.exists() for cell in cells)


def test_a_run_over_its_time_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    state = RunState(tmp_path / "log", tmp_path / "metrics", 1, time.monotonic())
    kept: list[ProcessFamily] = []

    def follow(process: ProcessFamily) -> int:
        kept.append(process)
        return watch(process, state, Console(file=io.StringIO()), 1)

    with pytest.raises(TimeoutError, match="it took longer than 1 s"):
        run_family(command, {}, state.log, follow)
    assert kept[0].poll() == -signal.SIGTERM


def test_a_run_in_time_keeps_its_status(tmp_path: Path) -> None:
    state = RunState(tmp_path / "log", tmp_path / "metrics", 1, time.monotonic())
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    quiet = Console(file=io.StringIO())
    assert run_family(command, {}, state.log, lambda process: watch(process, state, quiet, 60)) == 3


def test_a_commit_holds_the_result_and_nothing_else_that_is_staged(study: Study) -> None:
    git = ["git", "-C", str(study.folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for key, value in (("user.name", "x"), ("user.email", "x@example.org")):
        subprocess.run([*git, "config", key, value], check=True)
    (study.folder / "other").write_text("staged")
    subprocess.run([*git, "add", "other"], check=True)
    cell = study.cells()[0]
    finish(study, cell.name)
    commit_file(cell.result_file, "Study: a result")
    shown = subprocess.run([*git, "show", "--stat", "--format=%s"], check=True, capture_output=True, text=True).stdout
    assert "Study: a result" in shown
    assert "gspo-seed1.json" in shown
    assert "other" not in shown


def test_status_names_what_is_missing(study: Study) -> None:
    finish(study, "tiny_dense/gspo-seed2")
    shown = CliRunner().invoke(app, ["study", "status", str(study.folder)])
    assert shown.exit_code == 1
    assert "1 of 6 runs are done" in shown.output
    [row] = [line.split() for line in shown.output.splitlines() if line.split()[:2] == ["tiny_dense", "gspo"]]
    assert row[2:] == ["2", "1"]


def test_a_name_that_no_run_has_is_refused_with_those_that_there_are(study: Study) -> None:
    shown = CliRunner().invoke(app, ["study", "run", str(study.folder), "--method", "grpo", "--seed", "7"])
    assert shown.exit_code == 2
    said = " ".join(shown.output.replace("│", " ").split())
    assert "--method grpo: there is espo, gspo" in said
    assert "--seed 7: there is 1, 2" in said


@pytest.mark.ray
@pytest.mark.slow
def test_a_cell_through_verls_trainer(tmp_path: Path) -> None:
    """Two steps of GSPO: clipping comes from the token export and agrees with what verl's loss itself reports."""
    import json

    short = {"gspo": {**SMALL["methods"]["gspo"], "overrides": ["trainer.total_training_steps=2"]}}
    folder = written(tmp_path / "study", methods=short, models={"tiny_dense": ["gspo"]}, seeds=[1], tuning=None)
    with one_at_a_time():
        status = CliRunner().invoke(app, ["study", "run", str(folder), "--out", str(tmp_path / "out")])
    assert status.exit_code == 0, status.output
    result = Result.read(folder / "results/tiny_dense/gspo-seed1.json")
    assert result.steps == 2
    assert result.validation["step"] == [0, 2]
    run = tmp_path / "out/runs/tiny_dense/gspo-seed1"
    logged = [json.loads(line)["data"] for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
    ours = [low + high for low, high in zip(result.curves["clip_low"], result.curves["clip_high"], strict=True)]
    assert len(ours) == len(logged) == 2
    assert [step.name for step in (run / "token_export").iterdir()] == ["step-00002"]
    # The study counts tokens; verl averages the shares of mini-batches, whose numbers of tokens differ.
    batch = read_all(run / "token_export" / "step-00002")
    valid = batch.padded("response_mask") > 0
    clipped = (batch.padded("clipped_low") + batch.padded("clipped_high") > 0) & valid
    updates = np.array(batch.columns["mini_batch"])
    shares = [clipped[updates == one].sum() / valid[updates == one].sum() for one in range(4)]
    # Below and above are rounded to six decimals each in a result.
    assert ours[-1] == pytest.approx(clipped.sum() / valid.sum(), abs=1e-6)
    assert logged[-1]["actor/pg_clipfrac"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert ours[-1] > 0

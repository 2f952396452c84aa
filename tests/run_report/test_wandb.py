"""wandb through verl's own tracking, offline and without network: what is written, read back, and never written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_report import made
from verl_ext.run_report import wandb_file
from verl_ext.run_report.sources import read

pytest.importorskip("wandb")
KEY = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import json, sys
from verl.utils.tracking import Tracking
from verl_ext.run_report import wandb_panels
tracking = Tracking("project", "espo", ["wandb"], config={"trainer": {"logger": ["wandb"]}})
wandb_panels.define(tracking.logger["wandb"])
for step, data in json.loads(sys.argv[1]).items():
    tracking.log({**data, "actor/verl_ext/execution": 1.0, "actor/lost": float("nan")}, step=int(step))
tracking.finish()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's offline folder. Nothing answers at the server's address: contacting it would be an error."""
    home = tmp_path_factory.mktemp("wandb")
    variables = {
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": KEY,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_DIR": str(home),
        "VERL_USE_EXTERNAL_MODULES": "",
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(made.rows())]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    return home


def test_an_offline_run_is_read_from_its_folder(folder: Path) -> None:
    (logged,) = read(folder)
    found = {record.step: record.values for record in logged.history.records}
    extra = {"actor/verl_ext/execution": 1.0}
    assert found == {step: {**values, **extra} for step, values in made.rows().items()}
    assert logged.kind == "wandb"
    assert logged.notes == ("not finite: actor/lost (3 steps)",)


def test_no_file_of_the_run_holds_the_key(folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files)
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_a_killed_run_gives_what_it_had_written(folder: Path, tmp_path: Path) -> None:
    (file,) = folder.rglob("*.wandb")
    data = file.read_bytes()
    cut = tmp_path / "run-cut.wandb"
    lengths = []
    for share in (0.3, 0.6, 0.9, 1.0):
        cut.write_bytes(data[: int(share * len(data))])
        rows, broken = wandb_file.history(cut)
        lengths.append(len(rows))
        assert broken == (share < 1)
    assert lengths == sorted(lengths)
    assert lengths[-1] == 3


def test_definitions_reach_the_run(folder: Path) -> None:
    """wandb-core writes them into the log: the summary of validations, and the checksum without a chart."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.rglob("*.wandb")
    records = map(wandb_internal_pb2.Record.FromString, wandb_file.records(file.read_bytes()))
    found = {r.metric.name or r.metric.glob_name: r.metric for r in records if r.WhichOneof("record_type") == "metric"}
    assert found["val-core/*"].summary.max
    assert found["val-core/*"].summary.last
    assert found["guards/nonfinite/values"].summary.max
    assert found["actor/verl_ext/execution"].options.hidden

"""wandb through verl's own tracking, offline and without network: what is written, read back, and never written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from verl.utils.tracking import Tracking

from tests.run_report import made
from verl_ext.run_report import wandb_file
from verl_ext.run_report.sources import read

pytest.importorskip("wandb")
KEY = "0123456789abcdef0123456789abcdef01234567"
MARK = "a-value-of-the-configuration"
# verl alone, as its trainer uses it, which never calls finish(): the plugin is found by its entry point.
SCRIPT = """
import json, sys
from verl.utils.tracking import Tracking
tracking = Tracking("project", "espo", ["wandb"], config={"trainer": {"logger": ["wandb"], "note": sys.argv[2]}})
for step, data in json.loads(sys.argv[1]).items():
    tracking.log({**data, "actor/verl_ext/execution": 1.0, "actor/lost": float("nan")}, step=int(step))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that an offline run wrote. Nothing answers at the server's address: asking is an error."""
    home = tmp_path_factory.mktemp("wandb")
    folders = ("HOME", "TMPDIR", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "XDG_CACHE_HOME")
    server = {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    variables = {**dict.fromkeys(folders, str(home)), **server, "VERL_USE_EXTERNAL_MODULES": ""}
    command = [sys.executable, "-c", SCRIPT, json.dumps(made.rows()), MARK]
    done = subprocess.run(
        command, cwd=home, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return home


def test_an_offline_run_is_read_from_its_folder(folder: Path) -> None:
    (logged,) = read(folder)
    found = {record.step: record.values for record in logged.history.records}
    extra = {"actor/verl_ext/execution": 1.0}
    assert found == {step: {**values, **extra} for step, values in made.rows().items()}
    assert logged.kind == "wandb"
    assert logged.notes == ("not finite: actor/lost (3 steps)",)


def test_no_file_of_the_run_holds_the_key(folder: Path) -> None:
    """Of all that the run wrote anywhere; what it was given as configuration is there, so that a key would be found."""
    contents = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert any(file.suffix == ".wandb" and MARK.encode() in content for file, content in contents.items())
    assert [file for file, content in contents.items() if KEY.encode() in content] == []


def test_a_run_that_wandb_does_not_record_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracking = Tracking("project", "espo", ["wandb"])
    assert "wandb" in tracking.logger
    tracking.log({"val-core/sums/acc/mean@1": 0.5}, step=1)
    tracking.finish()
    assert not list(tmp_path.rglob("*.wandb"))


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
    """wandb-core writes them into the log: the summary of validations, and the checksum without a chart.

    Nobody but the plugin defined them.
    """
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.rglob("*.wandb")
    records = map(wandb_internal_pb2.Record.FromString, wandb_file.records(file.read_bytes()))
    found = {r.metric.name or r.metric.glob_name: r.metric for r in records if r.WhichOneof("record_type") == "metric"}
    assert found["val-core/*"].summary.max
    assert found["val-core/*"].summary.last
    assert found["guards/nonfinite/values"].summary.max
    assert found["actor/verl_ext/execution"].options.hidden

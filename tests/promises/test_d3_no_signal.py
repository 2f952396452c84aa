"""D3: `replay` and `calibrate` say first that a batch has no signal, and propose nothing from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from verl_ext import batch_file
from verl_ext.cli import app
from verl_ext.replay import made


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A made batch in which every reward of a group was equal."""
    columns = dict(made.columns(8))
    columns["advantages"] = [np.zeros(len(row)) for row in columns["advantages"]]
    path = tmp_path / "silent.parquet"
    batch_file.write(path, columns, 1, {"vocab_size": made.VOCAB})
    return path


def test_replay_says_so_first(silent: Path) -> None:
    done = CliRunner().invoke(app, ["view", "losses", str(silent), "--loss", "espo", "--loss", "gspo"])
    assert done.output.startswith("no signal: the advantage of every token is 0")
    assert " -\n" not in done.output.replace("  ", " ")


@pytest.mark.parametrize("options", [(), ("--target-clip", "0"), ("--loss", "sspo")])
def test_calibrate_proposes_nothing(silent: Path, options: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["view", "clip", str(silent), *options])
    assert done.exit_code == 1
    assert done.output.startswith("no signal: the advantage of every token is 0")
    assert "policy_loss." not in done.output
    assert (
        json.loads(CliRunner().invoke(app, ["view", "clip", str(silent), "--json", *options]).output)["signal"] is False
    )

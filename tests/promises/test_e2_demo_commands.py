"""What the demo prints at its end works as printed, typed in the folder that the demo was started in."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from tests.e2e.trainer import one_at_a_time
from verl_ext.demo.run import Options, run_demo
from verl_ext.toy import assets
from verl_ext.toy.pretrain import PretrainSettings

STEPS = 2
# What each command writes.
WRITTEN = {
    "report": "curves.html",
    "view tokens": "attempt-1/checkpoints/token_export/tokens.html",
    "view losses": "attempt-1/replay.html",
    "eval export": f"attempt-1/checkpoints/model_step_{STEPS}/model.safetensors",
    "eval run": "attempt-1/eval/demo/summary.json",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the demo was started in, and what it printed; its model has had little schooling."""
    folder = tmp_path_factory.mktemp("work")
    quick = assets.AssetSettings("tiny_dense", validation_problems=32, pretrain=PretrainSettings(steps=20))
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, one_at_a_time():
        patch.chdir(folder)
        patch.setattr(assets, "prepare", lambda *_, **__: assets.prepare_settings(quick, "outputs/assets"))
        status = run_demo(Options(steps=STEPS), Console(file=said, width=200))
    assert status == 0, said.getvalue()
    return folder, said.getvalue()


def printed(text: str) -> list[str]:
    """The commands, each below the comment that says what it is for."""
    lines = text.split("To look further:")[1].splitlines()
    return [line.strip() for line in lines if line.startswith("  ") and not line.startswith("  #")]


def verb(line: str) -> str:
    """The command of a printed line, with the group that it stands in."""
    words = line.split()
    return " ".join(words[1:3]) if words[1] in ("view", "eval") else words[1]


@pytest.mark.ray
@pytest.mark.slow
def test_every_printed_command_works_as_typed(demo: tuple[Path, str]) -> None:
    folder, said = demo
    commands = printed(said)
    assert [verb(line) for line in commands] == list(WRITTEN)
    run = folder / "outputs/demo/espo-tiny_dense-seed1"
    for line in commands:
        with one_at_a_time():
            done = subprocess.run(
                line, shell=True, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
            )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert (run / WRITTEN[verb(line)]).exists(), line
        if " view losses " in line:
            assert "espo" in done.stdout
            assert "gspo" in done.stdout
    summary = json.loads((run / WRITTEN["eval run"]).read_text())
    assert summary["metrics"]["avg@1"]["n"] == 32


@pytest.mark.ray
@pytest.mark.slow
def test_a_step_was_a_line_and_the_log_is_named(demo: tuple[Path, str]) -> None:
    folder, said = demo
    log = folder / "outputs/demo/espo-tiny_dense-seed1/train.1.log"
    assert f"full log: {log}" in said
    assert log.stat().st_size > 10_000
    assert sum(line.startswith("step ") for line in said.splitlines()) == STEPS + 1


@pytest.mark.ray
@pytest.mark.slow
def test_only_the_last_step_was_saved_and_exported(demo: tuple[Path, str]) -> None:
    checkpoints = demo[0] / "outputs/demo/espo-tiny_dense-seed1/attempt-1/checkpoints"
    assert [path.name for path in checkpoints.glob("global_step_*")] == [f"global_step_{STEPS}"]
    assert [path.name for path in (checkpoints / "token_export").glob("step-*")] == [f"step-{STEPS:05d}"]

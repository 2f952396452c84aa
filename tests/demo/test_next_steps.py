"""Which commands the demo prints. That they work as printed: tests/promises."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from verl_ext.demo import next_steps
from verl_ext.demo.command import CHECKPOINTS
from verl_ext.toy.assets import Assets


def test_only_what_is_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assets, checkpoints, metrics = Assets.under(tmp_path / "assets"), tmp_path / CHECKPOINTS, tmp_path / "m.jsonl"

    def commands() -> list[str]:
        return [
            " ".join(takewhile(str.isalpha, arguments[:2]))
            for _, arguments in next_steps.commands("espo", assets, checkpoints, metrics)
        ]

    assert commands() == []
    metrics.touch()
    assert commands() == ["report"]
    (checkpoints / "token_export" / "step-00004").mkdir(parents=True)
    assert commands() == ["report", "view tokens", "view losses"]
    (checkpoints / "global_step_4").mkdir()
    assert commands() == ["report", "view tokens", "view losses", "eval export", "eval run"]


def test_paths_are_from_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_steps.here(tmp_path / "a/b") == "a/b"
    assert next_steps.here(Path("a")) == "a"
    assert next_steps.here(tmp_path.parent / "c") == str(tmp_path.parent / "c")


def test_the_program_is_named_as_the_users_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` runs .venv/bin/verl-ext, which is on nobody's path; another installation's name is not ours."""
    own, other = tmp_path / ".venv/bin", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "verl-ext").touch()
        (folder / "verl-ext").chmod(stat.S_IRWXU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    for path, expected in ((own, "verl-ext"), (other, ".venv/bin/verl-ext"), (tmp_path, ".venv/bin/verl-ext")):
        monkeypatch.setenv("PATH", str(path))
        assert next_steps.program() == expected


def test_make_demo_passes_arguments_on(pytestconfig: pytest.Config) -> None:
    make = shutil.which("make")
    assert make is not None
    command = [make, "-n", "demo", "ARGS=trainer.test_freq=7 '+a.b=c d'"]
    shown = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in shown.splitlines() if "verl-ext demo" in line]
    assert line.endswith("trainer.test_freq=7 '+a.b=c d'")

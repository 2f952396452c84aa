"""A new project logs to a file, and its README says what looks at the first run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from verl_ext.project import examples, writing
from verl_ext.project.command import CPU_COMMAND
from verl_ext.train import compose


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "mine"
    writing.write(folder, examples.demo("mine"))
    return folder


def test_its_first_run_logs_to_a_file_and_exports_tokens(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    config = compose(shlex.split(CPU_COMMAND)[2:]).config
    assert "file" in config.trainer.logger
    assert config.trainer.total_training_steps % config.verl_ext.export.every == 0


def test_its_readme_names_report_view_and_export(project: Path) -> None:
    text = (project / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert any(
        all(f"verl-ext {name} " in block for name in ("report", "view tokens", "eval export")) for block in blocks
    )

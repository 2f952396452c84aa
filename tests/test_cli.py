"""The command line: fast help, clear errors."""

from __future__ import annotations

import subprocess
import sys
import time

from typer.testing import CliRunner

from verl_ext.cli import app

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

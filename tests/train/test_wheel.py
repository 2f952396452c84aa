"""An installed wheel composes as the checkout does: configs/ and recipes/ are in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from pathlib import Path
import verl_ext
from verl_ext.tables.recipe import all_tables, recipes_dir
from verl_ext.train import compose
assert str(Path(verl_ext.__file__)).startswith(sys.argv[1]), verl_ext.__file__
assert str(recipes_dir()).startswith(sys.argv[1]), recipes_dir()
row = next(row for table in all_tables() for row in table.rows if row.kind == "train")
print(len(all_tables()), compose(["experiment=" + row.reference]).config.actor_rollout_ref.rollout.name)
print(compose(["algo=espo", "backend=fsdp", "cluster=2x8"]).config.trainer.nnodes)
"""


@pytest.mark.slow
def test_the_wheel_composes(tmp_path: Path) -> None:
    source, wheels, target = tmp_path / "source", tmp_path / "wheels", tmp_path / "target"
    for folder in ("verl_ext", "configs", "recipes"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quiet = {"check": True, "capture_output": True, "timeout": 300}
    subprocess.run([*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", wheels, source], **quiet)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], **quiet)
    env = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(target)]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    tables, engine, nodes = result.stdout.split()
    assert (engine, nodes) == ("vllm", "2")
    assert int(tables) == len(list((ROOT / "recipes").glob("*/tables/*.yaml")))

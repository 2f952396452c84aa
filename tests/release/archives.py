"""A wheel and an sdist of a clean copy of this tree, and an environment outside of it that has the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What a clone does not have.
IGNORED = (".*", "outputs", "build", "dist", "*.egg-info", "__pycache__", "*.pyc")
# What would lead a program back to this tree or to another environment.
LEADING_BACK = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "VERL_EXT_DATA")


def run(*command: str | Path, cwd: Path, limit_s: float = 600) -> str:
    """What a program printed; its whole output is the message where it fails."""
    env = {name: value for name, value in os.environ.items() if name not in LEADING_BACK}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=limit_s, check=False
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """The archives that a release publishes, and the tree that they were made of."""

    tree: Path
    wheel: Path
    sdist: Path
    wheel_of_sdist: Path

    @cached_property
    def files(self) -> dict[str, bytes]:
        return contents(self.wheel)

    @cached_property
    def metadata(self) -> str:
        (name,) = [name for name in self.files if name.endswith(".dist-info/METADATA")]
        return self.files[name].decode()


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def build(folder: Path) -> Built:
    """Build both archives from a copy of this tree, and a wheel from the unpacked sdist."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*IGNORED))
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    wheel = _wheel(tree, folder / "dist")
    shutil.rmtree(tree / "build", ignore_errors=True)
    run(sys.executable, "-c", program, folder / "dist", cwd=tree)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return Built(tree, wheel, sdist, _wheel(unpacked, folder / "again"))


def _wheel(tree: Path, folder: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", folder, tree, cwd=folder.parent)
    (wheel,) = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Environment:
    """An environment that has the wheel; what it depends on is taken from ours, without our own installation of it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def command(self) -> Path:
        return self.folder / "venv" / "bin" / "verl-ext"

    @property
    def elsewhere(self) -> Path:
        """A folder that has nothing to do with this project."""
        found = self.folder / "elsewhere"
        found.mkdir(exist_ok=True)
        return found

    def run(self, *command: str | Path) -> str:
        return run(*command, cwd=self.elsewhere)


def install(wheel: Path, folder: Path) -> Environment:
    """A new environment below `folder` with the wheel in it."""
    made = Environment(folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", made.python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    # A plain path: the .pth files behind it, and with them our editable installation, are not read from there. Only
    # now, because pip would have found that installation and have had nothing to do.
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "heavy.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made

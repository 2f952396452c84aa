"""The code that a job brings along: what of a folder is sent, and how much that is, before Ray is asked."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024

LIMIT = 512 * MIB
"""The largest package that Ray's head takes (ray 2.60: ``GCS_STORAGE_MAX_SIZE``, unless the cluster changes it)."""

NOTEWORTHY = 100 * MIB
"""From here on a person is told: code is rarely so large, and every node keeps a copy."""

EXCLUDES = (
    # What training writes.
    "outputs/", "checkpoints/", "global_step_*/", "wandb/", "mlruns/", "tensorboard_log/", "swanlog/", "*.log",
    # Data and weights.
    "*.parquet", "*.arrow", "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "*.gguf", "*.h5", "*.npy", "*.npz",
    # What each machine makes for itself.
    ".git/", ".venv/", "venv/", "__pycache__/", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".hypothesis/",
    "build/", "dist/", "node_modules/", ".ipynb_checkpoints/",
    # Secrets.
    ".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*",
)  # fmt: skip
"""Patterns as in a .gitignore, on top of the folder's own .gitignore and .rayignore."""

_HEADERS, _END = 30 + 46, 22
"""Bytes that a zip archive spends on a file, besides twice its name, and on its end."""


@dataclass(frozen=True)
class Package:
    """What would be sent.

    Attributes:
        folder: the root; the job starts in a copy of it.
        excludes: patterns, besides those of the ignore files.
        size: of the archive, bytes.
        files: path -> bytes.
    """

    folder: Path
    excludes: tuple[str, ...]
    size: int
    files: dict[str, int]

    def largest(self, most: int = 5) -> str:
        """The largest files, for a message."""
        top = sorted(self.files.items(), key=lambda item: -item[1])[:most]
        return ", ".join(f"{path} ({size / MIB:.1f} MiB)" for path, size in top)

    def faults(self) -> list[str]:
        """Why it cannot be sent."""
        if self.size < LIMIT:
            return []
        return [
            f"--code {self.folder}: {self.size / MIB:.0f} MiB in {len(self.files)} files are more than the "
            f"{LIMIT // MIB} MiB that Ray takes; name what is no code in a .rayignore. Largest: {self.largest()}"
        ]

    def notes(self) -> list[str]:
        """What is sent, and what looks as if it were no code."""
        sent = f"code: {len(self.files)} files, {self.size / MIB:.1f} MiB of {self.folder}"
        if NOTEWORTHY <= self.size < LIMIT:
            return [f"{sent}; is that all code? Largest: {self.largest()}"]
        return [sent]


def measure(folder: Path, kept_back: Sequence[str] = ()) -> Package:
    """Count what Ray would send, with Ray's own walk over the folder.

    Args:
        folder: the root of the code.
        kept_back: folders and files of the run (checkpoints, data); those inside `folder` are excluded.

    Raises:
        NotADirectoryError: if there is no such folder.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise NotADirectoryError(f"--code {folder}: no such folder")
    excludes = (*EXCLUDES, *inside(folder, kept_back))
    files: dict[str, int] = {}
    entries = [0]

    def add(path: Path) -> None:
        if path.is_file():
            files[str(path.relative_to(folder))] = path.stat().st_size
        elif path.is_dir() and next(path.iterdir(), None) is None:
            # An empty folder is an entry too, its name ending in a slash.
            entries.append(_HEADERS + 2 * (len(str(path.relative_to(folder)).encode()) + 1))

    patterns = [_get_excludes(folder, [*get_runtime_env_default_excludes(), *excludes])]
    _dir_travel(folder, patterns, add, include_gitignore=include_gitignore(), logger=_silent())
    size = _END + sum(entries) + sum(_HEADERS + 2 * len(path.encode()) + bytes_ for path, bytes_ in files.items())
    return Package(folder, excludes, size, files)


def inside(folder: Path, paths: Sequence[str]) -> list[str]:
    """Patterns for those of the paths that lie in the folder.

    Example:
        >>> inside(Path("/code"), ["/code/runs/a", "/shared/data.jsonl", "/code"])
        ['/runs/a']
    """
    found = [Path(path).expanduser() for path in paths if "://" not in path]
    local = [path if path.is_absolute() else folder / path for path in found]
    return [f"/{path.relative_to(folder)}" for path in local if path != folder and path.is_relative_to(folder)]


def include_gitignore() -> bool:
    """Whether Ray honours .gitignore files: yes, unless a variable of its own says otherwise."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE

    return os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"


def _silent() -> logging.Logger:
    # Ray tells of every ignore file, and will do so again when it packs.
    logger = logging.Logger(__name__)
    logger.addHandler(logging.NullHandler())
    return logger

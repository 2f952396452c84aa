"""Where Hydra finds our config groups (``+algo=espo``, ``+backend=cpu``)."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


def config_dir() -> Path:
    """The folder with our Hydra groups: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "algo").is_dir():
            return candidate
    raise FileNotFoundError(f"verl_ext's configs/ is neither in {package} nor beside it: reinstall the package")


class VerlExtSearchPath(SearchPathPlugin):
    """Appends :func:`config_dir` to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="verl_ext", path=f"file://{config_dir()}")

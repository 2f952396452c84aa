"""Where Hydra finds our config groups (``+algo=espo``, ``+backend=cpu``, ``+experiment=sspo/table1/sspo_1_5b``)."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

GROUPS = ("backend", "cluster", "model", "data", "algo", "experiment")
"""Our groups in the order in which they are merged, later ones winning: what a paper decides comes last."""

# verl has a group `data` of its own, put at the package `data`, which Hydra takes for the same choice unless ours names
# its package.
_HYDRA_NAMES = {"data": "data@_global_"}

PROVIDER = "verl_ext"


def hydra_name(group: str) -> str:
    """What Hydra calls one of our groups on its command line and in defaults lists.

    Example:
        >>> hydra_name("algo"), hydra_name("data")
        ('algo', 'data@_global_')
    """
    return _HYDRA_NAMES.get(group, group)


def config_dir() -> Path:
    """The folder with our Hydra groups: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "algo").is_dir():
            return candidate
    raise FileNotFoundError(f"verl_ext's configs/ is neither in {package} nor beside it: reinstall the package")


class VerlExtSearchPath(SearchPathPlugin):
    """Appends :func:`config_dir`, the training sets and the rows of the papers' tables to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # Here and not on top: every Ray process imports this module, and only those that compose need the rows.
        from verl_ext.bridge.row_source import RowSource
        from verl_ext.data.config_source import DataSource

        Plugins.instance().register(RowSource)
        Plugins.instance().register(DataSource)
        search_path.append(provider=PROVIDER, path=f"file://{config_dir()}")
        search_path.append(provider=PROVIDER, path=f"{RowSource.scheme()}://rows")
        search_path.append(provider=PROVIDER, path=f"{DataSource.scheme()}://sets")


def register() -> None:
    """Make Hydra use the search path in this process; harmless when called again."""
    Plugins.instance().register(VerlExtSearchPath)

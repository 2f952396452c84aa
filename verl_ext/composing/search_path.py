"""Where Hydra finds our config groups (``+algo=espo``, ``+backend=cpu``, ``+experiment=sspo/table1/sspo_1_5b``)."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from verl_ext.config_groups import config_dir

PROVIDER = "verl_ext"


class VerlExtSearchPath(SearchPathPlugin):
    """Appends :func:`config_dir`, the training sets and the rows of the papers' tables to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # Here and not on top: every Ray process imports this module, and only those that compose need the rows.
        from verl_ext.composing.row_source import RowSource
        from verl_ext.data.config_source import DataSource

        Plugins.instance().register(RowSource)
        Plugins.instance().register(DataSource)
        search_path.append(provider=PROVIDER, path=f"file://{config_dir()}")
        search_path.append(provider=PROVIDER, path=f"{RowSource.scheme()}://rows")
        search_path.append(provider=PROVIDER, path=f"{DataSource.scheme()}://sets")


def register() -> None:
    """Make Hydra use the search path in this process; harmless when called again."""
    Plugins.instance().register(VerlExtSearchPath)

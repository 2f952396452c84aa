"""The rows of the papers' tables as Hydra configs: ``experiment/<paper>/<table>/<row>``, made when Hydra asks.

A row is served as what one would write by hand: a defaults list of its choices, then its overrides. No table is read
before Hydra looks under ``experiment/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from verl_ext.config_groups import GROUPS, hydra_name

if TYPE_CHECKING:
    from verl_ext.recipe_files.recipe import Row, Table

ROOT = "experiment"


class RowSource(ConfigSource):
    """Serves the rows of kind ``train``; the others exist only to say how they are run."""

    @staticmethod
    def scheme() -> str:
        return "verl-ext"

    def available(self) -> bool:
        return bool(papers())

    def is_group(self, config_path: str) -> bool:
        match steps(config_path):
            case []:
                return True
            case [root]:
                return root == ROOT and bool(papers())
            case [root, paper]:
                return root == ROOT and paper in papers()
            case [root, paper, table]:
                return root == ROOT and table in papers().get(paper, ())
        return False

    def is_config(self, config_path: str) -> bool:
        match steps(config_path):
            case [root, paper, table, row] if root == ROOT and table in papers().get(paper, ()):
                return row in _table(paper, table).by_name
        return False

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        _, paper, table, name = steps(config_path)
        row = _table(paper, table).by_name[name]
        if row.kind != "train":
            raise ConfigLoadError(not_trained(row))
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=row_config(row),
            header={"package": "_global_"},
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        groups: list[str] = []
        configs: list[str] = []
        match steps(config_path):
            case []:
                groups = [ROOT] if papers() else []
            case [root] if root == ROOT:
                groups = [*papers()]
                # By their whole names: Hydra lists these, and not those of deeper groups, where a name is unknown.
                tables = [(paper, table) for paper, tables in papers().items() for table in tables]
                configs = [f"{paper}/{table}/{row}" for paper, table in tables for row in trained(paper, table)]
            case [root, paper] if root == ROOT:
                groups = [*papers().get(paper, ())]
            case [root, paper, table] if root == ROOT and table in papers().get(paper, ()):
                configs = trained(paper, table)
        found = {ObjectType.GROUP: groups, ObjectType.CONFIG: configs}
        return sorted(groups + configs if results_filter is None else found[results_filter])


def steps(config_path: str) -> list[str]:
    """``"experiment/sspo/table1.yaml"`` -> ``["experiment", "sspo", "table1"]``."""
    return [step for step in config_path.removesuffix(".yaml").split("/") if step]


def papers() -> dict[str, list[str]]:
    """Paper -> names of its tables, from the file names alone."""
    from verl_ext.recipe_files.recipe import recipes_dir

    found: dict[str, list[str]] = {}
    for file in sorted(Path(recipes_dir()).glob("*/tables/*.yaml")):
        found.setdefault(file.parts[-3], []).append(file.stem)
    return found


def _table(paper: str, table: str) -> Table:
    from verl_ext.recipe_files.recipe import RecipeError, load_table

    try:
        return load_table(paper, table)
    except RecipeError as error:
        # Hydra shows its own errors as a message, and any other as a stack trace.
        raise ConfigLoadError(str(error)) from error


def trained(paper: str, table: str) -> list[str]:
    """Names of a table's rows that Hydra can serve."""
    return [row.name for row in _table(paper, table).rows if row.kind == "train"]


def row_config(row: Row) -> DictConfig:
    """The row as a config in the global package.

    The paper's common settings are named by path: an ``experiment`` cannot choose another option of its own group.
    """
    defaults: list[Any] = []
    for group in sorted(row.choices, key=GROUPS.index):
        choice = row.choices[group]
        defaults.append(f"/{ROOT}/{choice}" if group == ROOT else {f"/{hydra_name(group)}": choice})
    config = OmegaConf.create({"defaults": [*defaults, "_self_"]})
    for key, value in row.overrides.items():
        plain = dict(value) if isinstance(value, Mapping) else value
        OmegaConf.update(config, key.lstrip("+"), plain, merge=True, force_add=True)
    return config


def not_trained(row: Row) -> str:
    """Why a row is no experiment, and what to use."""
    told = f"{row.reference} is not trained by reinforcement learning"
    run = f"verl-ext tables run {row.table}"
    if row.kind == "same_as":
        return f"{told}: it prints the run of {row.same_as} again; use experiment={row.same_as}"
    if row.kind == "derived":
        return f"{told}: it is computed from other rows; use `{run}`"
    if row.kind == "sft":
        return f"{told}: it is fine-tuned by verl's SFT trainer; use `{run}`"
    return f"{told}: it is evaluated as it is; use `{run}` or `verl-ext eval`"

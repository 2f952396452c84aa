"""From what a person types (``experiment=sspo algo=gspo data.seed=1``) to verl's composed configuration."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.composing.errors import ConfigError
from verl_ext.composing.identity import keys
from verl_ext.composing.preset import Preset, find
from verl_ext.composing.search_path import register
from verl_ext.config_groups import GROUPS, config_dir, hydra_name
from verl_ext.hyper import nearest
from verl_ext.run import name as run_name
from verl_ext.run.settings import NODE

if TYPE_CHECKING:
    from verl_ext.composing.row_source import RowSource

PRIMARY = "ppo_trainer"
MEGATRON_PRIMARY = "ppo_megatron_trainer"
VERL_GROUPS = ("model_engine",)

Judge = Callable[[DictConfig], list[str]]
"""A configuration -> its faults."""

_ASSIGNMENT = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=]+?)(?:=(?P<value>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Composed:
    """A configuration, and how verl's entry point gets the same one.

    Attributes:
        config: as verl's trainer would receive it, not resolved.
        primary: verl's config that it starts from, ``ppo_trainer`` or ``ppo_megatron_trainer``.
        arguments: Hydra overrides for that config.
        choices: group -> option, those of an experiment included.
        names: key of ``trainer`` -> the name that the run was given, as nobody had chosen one; they are in `config`.
    """

    config: DictConfig
    primary: str
    arguments: list[str]
    choices: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)

    @cached_property
    def preset(self) -> Preset | None:
        """The choice of ``algo``, the experiment's included, with what it says alone."""
        return find(self.primary, self.arguments, self.choices.get("algo"), with_hydra)

    def command(self) -> list[str]:
        """What comes after the interpreter's name."""
        names = [f"trainer.{key}={name}" for key, name in self.names.items()]
        return ["-m", "verl.trainer.main_ppo", "--config-name", self.primary, *self.arguments, *names]

    def folder_faults(self) -> list[str]:
        """See `verl_ext.run.name.folder_faults`; what cannot be resolved is a fault of its own."""
        from omegaconf.errors import OmegaConfBaseException

        try:
            return run_name.folder_faults(self.config, self.choices, self.arguments)
        except OmegaConfBaseException:
            return []


@dataclass(frozen=True)
class Assignment:
    """One argument, taken apart: ``+algo=espo`` has the sign ``+``, the key ``algo`` and the value ``espo``."""

    text: str
    sign: str
    key: str
    value: str | None

    @property
    def group(self) -> bool:
        return self.key in GROUPS and self.sign in ("", "+") and self.value is not None


def compose(arguments: Sequence[str], judge: Judge = lambda _: []) -> Composed:
    """Compose verl's configuration; group choices may be given with or without ``+``, in any order.

    Args:
        arguments: Hydra overrides. Of our groups the last choice counts; an experiment's own choices are overridden.
        judge: what else to tell of a configuration, where a choice that does not exist hides it: its faults with the
            choice that was probably meant.

    Raises:
        ConfigError: listing every fault of the arguments.

    Example:
        >>> compose(["algo=sspo", "backend=fsdp"]).arguments
        ['+backend=fsdp', '+algo=sspo']
    """
    assignments = [take_apart(argument) for argument in arguments]
    given = {one.key: str(one.value) for one in assignments if one.group}
    values = [one for one in assignments if not one.group]
    found = group_faults(given) + [fault for one in values for fault in stray_group_faults(one)]
    if found:
        raise _error([*found, *_others(given, values, judge)])
    primary, groups, choices = plan(given)
    final = [*groups, *(one.text for one in values)]
    try:
        config = _hydra(primary, final)
        if NODE not in config and not any(one.key == NODE for one in values):
            # What this command starts is ours (`run_settings.ours`), also where no group of ours brought the node.
            final.append(f"+{NODE}={{}}")
            OmegaConf.update(config, NODE, {}, force_add=True)
    except ConfigError:
        found = diagnose(given, values)
        if not found:
            raise
        raise _error(found) from None
    return Composed(config, primary, final, choices, _named(config, choices, final))


def _named(config: DictConfig, choices: Mapping[str, str], arguments: Sequence[str]) -> dict[str, str]:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return run_name.give(config, choices, arguments)
    except OmegaConfBaseException:
        return {}  # a value that cannot be resolved, which is a fault of the configuration: no run comes of it


def _others(given: Mapping[str, str], values: Sequence[Assignment], judge: Judge) -> list[str]:
    """Faults beside a choice that does not exist, found with the choice that was probably meant.

    Without one, only the keys are looked up; and the values are looked at where there are any, as that takes seconds.
    """
    refused = {group: _meant(group, option) for group, option in given.items() if group_faults({group: option})}
    rest = {group: refused.get(group, option) for group, option in given.items()}
    known = {group: option for group, option in rest.items() if option is not None}
    found = diagnose(known, values)
    if found or not values or known != rest:
        return found
    primary, groups, _ = plan(known)
    return judge(_hydra(primary, [*groups, *(one.text for one in values)]))


def _meant(group: str, option: str) -> str | None:
    """The option that resembles the one given; of a table's name its first row."""
    known = [*options(group), *(rows() if group == "experiment" else ())]
    below = [row for row in known if row.startswith(f"{option.rstrip('/')}/")]
    return next(iter([*below, *difflib.get_close_matches(option, known, n=1)]), None)


def plan(given: Mapping[str, str]) -> tuple[str, list[str], dict[str, str]]:
    """verl's config to start from, the groups as Hydra wants them, and all choices that then hold.

    A group that the experiment chooses is overridden (``algo=gspo``), any other is added (``+algo=gspo``).
    """
    inherited = choices_of(given["experiment"]) if "experiment" in given else {}
    choices = {**inherited, **given}
    primary = MEGATRON_PRIMARY if choices.get("backend") == "megatron" else PRIMARY
    groups = [
        f"{'' if group in inherited else '+'}{hydra_name(group)}={given[group]}" for group in GROUPS if group in given
    ]
    return primary, groups, choices


def diagnose(given: Mapping[str, str], values: Sequence[Assignment]) -> list[str]:
    """Faults of the keys, each looked up in what the groups alone give."""
    primary, groups, _ = plan(given)
    verls = [one.text for one in values if one.key in VERL_GROUPS or "@" in one.key]
    base = _hydra(primary, [*groups, *verls])
    settings = [one for one in values if one.text not in verls and one.key not in GROUPS]
    added = {one.key for one in settings if one.sign in ("+", "++")}
    return [fault for one in settings for fault in key_faults(one, base, () if one.sign else added)]


def take_apart(argument: str) -> Assignment:
    """Split an argument.

    Raises:
        ConfigError: it is an option of Hydra's command line (``--config-name``) or no assignment.
    """
    match = _ASSIGNMENT.fullmatch(argument)
    if argument.startswith("-") or match is None or (match["value"] is None and match["sign"] != "~"):
        raise ConfigError(f"'{argument}' is no override; write key=value, +key=value or ~key")
    ours = {hydra_name(group): group for group in GROUPS}
    return Assignment(argument, match["sign"] or "", ours.get(match["key"], match["key"]), match["value"])


def _error(found: Sequence[str]) -> ConfigError:
    return ConfigError("the configuration cannot be composed:\n" + "\n".join(f"  - {fault}" for fault in found))


def options(group: str) -> list[str]:
    """The options of one of our groups; of ``experiment`` those of configs/ alone, without the tables' rows."""
    if group == "data":
        from verl_ext.data.config_source import choices

        return sorted(choices())
    return sorted(file.stem for file in (config_dir() / group).glob("*.yaml"))


def group_faults(given: Mapping[str, str]) -> list[str]:
    """Options that do not exist, each with its nearest neighbour."""
    found = []
    for group, option in given.items():
        if group == "experiment" and _rows().is_config(f"experiment/{option}"):
            continue
        if option not in options(group):
            found.append(f"{group}={option}: no such {group}{_hint(group, option)}")
    return found


def _hint(group: str, option: str) -> str:
    """What the option is instead, or what it resembles, or what there is."""
    if elsewhere := [other for other in GROUPS if other != group and option in options(other)]:
        return f"; {option} is another choice: {' or '.join(f'{other}={option}' for other in elsewhere)}"
    if table := _table_hint(option.rstrip("/")):
        return table
    known = options(group)
    if group != "experiment":
        return f"; it is a row: experiment={option}" if option in rows() else nearest(option, known)
    hint = nearest(option, [*known, *rows()])
    tables = ", ".join(sorted({row.rpartition("/")[0] for row in rows()}))
    return hint if "did you mean" in hint else f"; there is {', '.join(known)}, and the rows of {tables}"


def _table_hint(option: str) -> str:
    """The rows of a table, or the tables of a paper, where the option names one."""
    below = [row.removeprefix(f"{option}/") for row in rows() if row.startswith(f"{option}/")]
    if not below:
        return ""
    if any("/" in row for row in below):
        tables = sorted({row.partition("/")[0] for row in below})
        return f"; it is a paper: choose a row, experiment={option}/TABLE/ROW, of {', '.join(tables)}"
    return f"; it is a table: choose a row, experiment={option}/ROW, of {', '.join(below)}"


def rows() -> list[str]:
    """The rows of all tables that can be trained, ``paper/table/row``."""
    from hydra.core.object_type import ObjectType

    return _rows().list("experiment", ObjectType.CONFIG)


def _rows() -> RowSource:
    from verl_ext.composing.row_source import RowSource

    return RowSource("verl_ext", f"{RowSource.scheme()}://rows")


def choices_of(experiment: str) -> dict[str, str]:
    """Group choices that an experiment makes: those of a row, or of a hand-written file's defaults list."""
    source = _rows()
    if source.is_config(f"experiment/{experiment}"):
        from verl_ext.recipe_files.recipe import find_row

        return {group: choice for group, choice in find_row(experiment).choices.items() if group != "experiment"}
    file = config_dir() / "experiment" / f"{experiment}.yaml"
    defaults = OmegaConf.select(OmegaConf.load(file), "defaults", default=[])
    entries = [entry for entry in defaults if isinstance(entry, DictConfig)]
    return {
        group: str(value)
        for entry in entries
        for key, value in entry.items()
        for group in GROUPS
        if str(key).removeprefix("/") == hydra_name(group)
    }


def stray_group_faults(one: Assignment) -> list[str]:
    """A misspelt group that Hydra would take for a new key (``+algoo=espo``), or a choice that cannot be made so."""
    if one.key in GROUPS and one.value is not None:
        return [f"{one.text}: a choice of {one.key} is written {one.key}={one.value}"]
    new = one.sign in ("+", "++") and "." not in one.key and "@" not in one.key
    hint = nearest(one.key, GROUPS) if new else ""
    return [f"{one.text}: no such group{hint}"] if "did you mean" in hint else []


def key_faults(one: Assignment, base: DictConfig, added: Collection[str] = ()) -> list[str]:
    """A key that the configuration does not have, or that it has already.

    Args:
        one: the assignment.
        base: the configuration of the groups alone.
        added: keys that other arguments add.
    """
    if one.key.startswith("hydra") or one.sign == "++" or one.key in added:
        return []
    exists = has(base, one.key)
    if one.sign == "+":
        merged = str(one.value).startswith("{")  # into what is there
        return [f"{one.text}: {one.key} exists; write it without the +"] if exists and not merged else []
    if exists or parent_is_open(base, one.key, added):
        return []
    known = [*keys(base), *(GROUPS if "." not in one.key else ())]
    hint = nearest(one.key, known)
    hint = hint if "did you mean" in hint else ""
    return [f"{one.text}: there is no {one.key}{hint} (to add a key, write +{one.key}=...)"]


def has(config: DictConfig, key: str) -> bool:
    """Whether the configuration has the key, whatever its value."""
    node: Any = config
    for step in key.split("."):
        if not isinstance(node, DictConfig) or node._is_none() or node._is_interpolation() or step not in node.keys():
            return False
        node = node._get_node(step)
    return True


def parent_is_open(config: DictConfig, key: str, added: Collection[str]) -> bool:
    """Whether the key lies in something added, in a list or in an interpolation; Hydra judges those."""
    steps = key.split(".")
    parents = [".".join(steps[:count]) for count in range(1, len(steps))]
    return any(
        parent in added or (has(config, parent) and not isinstance(_raw(config, parent), DictConfig))
        for parent in parents
    )


def _raw(config: DictConfig, key: str) -> Any:
    node: Any = config
    for step in key.split("."):
        node = node._get_node(step)
    return None if isinstance(node, DictConfig) and node._is_interpolation() else node


@cache
def verl_config_dir() -> Path:
    """verl's own configs, found without importing verl, which takes seconds."""
    spec = find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("verl is not installed here; see README.md")
    return Path(next(iter(spec.submodule_search_locations))) / "trainer" / "config"


def _hydra(primary: str, overrides: Sequence[str]) -> DictConfig:
    return with_hydra(primary, overrides, False)


def with_hydra(primary: str | None, overrides: Sequence[str], node: bool = True) -> DictConfig:
    """Compose; with Hydra's own node in it, which has the choices."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register()
    try:
        with initialize_config_dir(str(verl_config_dir()), version_base=None):
            return hydra_compose(primary, list(overrides), return_hydra_config=node)
    except (HydraException, OmegaConfBaseException) as error:
        raise _error([str(error)]) from error

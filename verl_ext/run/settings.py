"""Settings of a run that belong to no method: the top-level node `verl_ext` of the configuration.

Each section is a `Checked` class in the package that reads it. A section that is not given has its defaults, so that
a stock command line needs none of this: `python -m verl.trainer.main_ppo ... +verl_ext.watchdog.limit_s=600`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from verl_ext.hyper import Checked, one_each, switch

NODE = "verl_ext"
# Section -> its class. Named rather than imported: this module is read in every Ray process.
SECTIONS: dict[str, str] = {
    "watchdog": "verl_ext.run.watchdog.settings:WatchdogSettings",
    "checkpoint": "verl_ext.run.checkpoint.settings:CheckpointSettings",
    "guards": "verl_ext.run.guards.settings:GuardSettings",
    "export": "verl_ext.run.token_export.settings:TokenExportSettings",
}
# What is on or off and has no keys -> its default.
SWITCHES: dict[str, bool] = {"reward_probe": True}
# What is neither, and checked by its owner.
OTHERS = {"modules": "verl_ext.modules"}


def section_class(name: str) -> type[Checked]:
    """The class of a section."""
    module, cls = SECTIONS[name].split(":")
    return getattr(import_module(module), cls)


def ours(config: Any) -> bool:
    """Whether a run is ours: its loss, its estimator or `algorithm.verl_ext` says so, or it has the node `verl_ext`.

    Each of our algo and backend groups brings the node, and `verl-ext train` adds it. A run that is not ours is left
    as verl runs it.
    """
    from verl_ext.rollout import source

    return NODE in config or source.concerned(config)


def section(config: Any, name: str) -> Any:
    """One section of a composed trainer configuration, defaults filled in.

    Args:
        config: the trainer's configuration.
        name: key of `SECTIONS`.

    Raises:
        ValueError: listing every fault of the section.
    """
    given = (config.get(NODE, None) or {}).get(name, None)
    given = {} if given is None else given
    cls = section_class(name)
    if not isinstance(given, Mapping):
        raise ValueError(f"{cls.where} must hold keys ({', '.join(cls.names())}), but it is {given!r}")
    return cls(**given)


def switched(config: Any, name: str) -> bool:
    """Whether one of `SWITCHES` is on.

    Raises:
        ValueError: its value is neither on nor off.
    """
    given = (config.get(NODE, None) or {}).get(name, None)
    if given is None:
        return SWITCHES[name]
    try:
        on: bool = switch()(given)
    except ValueError as error:
        raise ValueError(f"{NODE}.{name}={given} {error}") from None
    return on


def faults(config: Any) -> list[str]:
    """Every fault of the node `verl_ext`, as sentences."""
    given = config.get(NODE, None)
    if given is None:
        return []
    if not isinstance(given, Mapping):
        return [f"{NODE} must hold sections ({', '.join(SECTIONS)}), but it is {given!r}"]
    found = []
    for name in given:
        if name in OTHERS:
            continue
        if name not in (*SECTIONS, *SWITCHES):
            close = difflib.get_close_matches(str(name), (*SECTIONS, *SWITCHES, *OTHERS), n=1)
            found.append(f"{NODE}.{name}: no such section; " + (f"did you mean '{close[0]}'?" if close else there_is()))
            continue
        try:
            (switched if name in SWITCHES else section)(config, str(name))
        except ValueError as error:
            found += one_each(error)
    return found


def there_is() -> str:
    """The sections and switches, for an error."""
    return f"there is: {', '.join(sorted((*SECTIONS, *SWITCHES, *OTHERS)))}"

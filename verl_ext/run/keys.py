"""Find keys in a configuration, which verl prints, Hydra writes to a file and loggers upload.

verl prints ``ray init kwargs: ...`` in `run_ppo` and the whole configuration in `TaskRunnerV1.run`
(verl/trainer/main_ppo.py), and gives all of it to `wandb.init`. The environment goes into none of these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = re.compile(r"(api|access|private|secret)_?key$|secret$|passw(or)?d$|auth_?token$|(hf|hub|wandb)_token$", re.I)
"""Keys of a configuration that hold a key. verl's own `prompt_key` or `max_token_len` are none."""
_VARIABLES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.I)
"""Environment variables that hold one; TOKENIZERS_PARALLELISM does not."""
_REFERENCES = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)")
_LOGIN = re.compile(r"://[^/\s:@]+:[^/\s:@]+@")
"""A URL with a user and a password."""
_NO_KEY = re.compile(r"(empty|none|null|dummy|true|false|\d{1,7}|\?\?\?)?", re.I)
"""What stands where a server wants some key and checks none, where nothing is set, and for numbers of tokens."""
_PLACES = ("/", "~", "./", "../")
_ENVIRONMENTS = ("env_vars", "env")
_LEAST = 12
"""Characters of a value that is looked for; shorter ones occur by chance."""

Path = tuple[str | int, ...]


def faults(config: Any, environment: Mapping[str, str] | None = None) -> list[str]:
    """Where a configuration holds a key, as sentences that do not repeat it.

    A value is looked at as it is written, and as it is resolved where it can be: a variable that is not set here may be
    set where the run starts.

    Args:
        config: a composed configuration, or plain mappings and lists.
        environment: variables whose values must not stand in it, if their names say that they are keys; the process's
            own by default.

    Example:
        >>> found = faults({"env_vars": {"WANDB_API_KEY": "abc", "NCCL_DEBUG": "INFO"}}, {})
        >>> [fault[:36] for fault in found], faults({"data": {"prompt_key": "prompt"}}, {})
        (['env_vars.WANDB_API_KEY holds a key: '], [])
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    if not isinstance(plain, Mapping):
        raise TypeError(f"a configuration is a mapping; got {type(config).__name__}")
    shell = os.environ if environment is None else environment
    values = {value: name for name, value in shell.items() if _VARIABLES.search(name) and _could_be_one(value)}
    places = {name for name, value in shell.items() if value.startswith(_PLACES)}
    found = []
    for path, text in _texts(plain, ()):
        refers = "${" in text and OmegaConf.is_config(config)
        whose = _held(path, text, _resolved(config, path) if refers else None, values, places)
        if whose:
            found.append(
                f"{'.'.join(map(str, path))} holds {whose}: verl prints its configuration, Hydra writes it to a file "
                "and loggers upload it; set the variable in the environment of the nodes, or send it by verl-ext "
                "submit --env NAME"
            )
    return found


def _held(path: Path, text: str, resolved: list[str] | None, values: Mapping[str, str], places: set[str]) -> str:
    """Whose key a value is, as it is written or as it is resolved; empty where it is none."""
    readings = [text, *(resolved or ())]
    variables = [name for value, name in values.items() if any(value in reading for reading in readings)]
    variables += [name for name in _REFERENCES.findall(text) if _VARIABLES.search(name) and name not in places]
    if variables:
        return f"the value of {variables[0]}"
    if any(map(_LOGIN.search, readings)):
        return "a password"
    # The items of a list are under its name.
    names = [step for step in path if isinstance(step, str)]
    pattern = _VARIABLES if len(names) > 1 and names[-2] in _ENVIRONMENTS else _NAMES
    named = names and pattern.search(names[-1])
    given = [text] if resolved is None else resolved
    return "a key" if named and not all(_NO_KEY.fullmatch(one.strip()) for one in given) else ""


def _could_be_one(value: str) -> bool:
    """Whether a variable's value is a key rather than the place of one."""
    return len(value) >= _LEAST and not value.startswith(_PLACES) and "://" not in value


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text and number of nested mappings and lists with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*path, number))
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and path:
        yield path, str(value)


def _resolved(config: Any, path: Path) -> list[str] | None:
    """The texts of the value at the path once resolved; None where it cannot be."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node = config
    try:
        for step in path:
            node = node[step]
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException:
        return None
    return [text for _, text in _texts(plain, path)]

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
_ENVIRONMENTS = ("env_vars", "env")
_LEAST = 12
"""Characters of a value that is looked for; shorter ones occur by chance."""


def faults(config: Any, environment: Mapping[str, str] | None = None) -> list[str]:
    """Where a configuration holds a key, as sentences that do not repeat it.

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

    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    if not isinstance(plain, Mapping):
        raise TypeError(f"a configuration is a mapping; got {type(config).__name__}")
    shell = os.environ if environment is None else environment
    values = {
        value: name
        for name, value in shell.items()
        if _VARIABLES.search(name) and len(value) >= _LEAST and "/" not in value
    }
    found = []
    for path, text in _texts(plain, ()):
        variables = len(path) > 1 and path[-2] in _ENVIRONMENTS
        held = (_VARIABLES if variables else _NAMES).search(path[-1])
        variable = next((name for value, name in values.items() if value in text), None)
        if (held and text) or variable:
            whose = f"the value of {variable}" if variable else "a key"
            found.append(
                f"{'.'.join(path)} holds {whose}: verl prints its configuration, Hydra writes it to a file and loggers "
                "upload it; set the variable in the environment of the nodes, or send it by verl-ext submit --env NAME"
            )
    return found


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text of nested mappings and lists with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*path, str(number)))
    elif isinstance(value, str) and path:
        yield path, value

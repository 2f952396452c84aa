"""Methods that live in other packages: their modules, found and loaded in every process of a run.

A module registers its methods with `verl_ext.add` when it is imported. It is named by ``+verl_ext.modules=[a.b]`` in
the run's configuration, or by an installed package under the entry point group ``verl_ext.methods``. Workers never see
the whole configuration, and verl does not forward its own ``VERL_USE_EXTERNAL_MODULES`` to them: so the driver hands
the names on in an environment variable, each with the digest of the file that it has itself.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

VARIABLE = "VERL_EXT_MODULES"
"""``name@digest`` for each module, with commas between."""
GROUP = "verl_ext.methods"
KEY = "verl_ext.modules"
ENVIRONMENT = "ray_kwargs.ray_init.runtime_env.env_vars"

_REMEDY = "install it on every node, put its folder on PYTHONPATH, or into Ray's runtime_env.working_dir"


class ModuleError(ImportError, ValueError):
    """Modules of methods that cannot be loaded, or are not the driver's; the message lists every one."""


def load(names: Iterable[str]) -> None:
    """Import the modules, which add their methods; the working directory is searched last. Without any, do nothing.

    Raises:
        ModuleError: listing each that cannot be imported, with the reason.
    """
    names = list(names)
    # Ray's workers and `python -m` look there; a command such as `verl-ext` would not, and call the module absent.
    if names and (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    faults = []
    for name in names:
        try:
            module = import_module(name)
        # Whatever the module raises while it is imported, it has not added its methods.
        except Exception as error:
            faults.append(f"{name} cannot be imported ({type(error).__name__}: {error}); {_REMEDY}")
            continue
        if getattr(module, "__file__", None) is None:
            faults.append(f"{name} is a folder without a file of its own, which adds nothing; name a module in it")
    if faults:
        raise ModuleError("; ".join(faults))


def load_named() -> None:
    """Load what installed packages and the driver name; called in each process when verl is imported.

    Raises:
        ModuleError: a module cannot be imported, or its file is not the driver's.
    """
    wanted = handed_on(os.environ)
    load(dict.fromkeys([*installed(), *wanted]))
    own = digests(wanted)
    other = [
        f"{name} is {own[name]} here ({sys.modules[name].__file__}) and {digest} in the driver"
        for name, digest in wanted.items()
        if digest and own[name] != digest
    ]
    if other:
        raise ModuleError(f"{'; '.join(other)}: this process would run another method; bring the files into line")


def installed() -> list[str]:
    """Modules that installed packages name."""
    return [point.module for point in entry_points(group=GROUP)]


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Module -> digest of the driver's file, empty where the variable was set by hand without one.

    Example:
        >>> handed_on({"VERL_EXT_MODULES": "my_package.my_loss@0123456789abcdef,other"})
        {'my_package.my_loss': '0123456789abcdef', 'other': ''}
    """
    parts = [part.partition("@") for part in environment.get(VARIABLE, "").split(",") if part.strip()]
    return {name.strip(): digest.strip() for name, _, digest in parts}


def home(function: Any) -> list[str]:
    """The module that a function stands in, where that is neither verl's nor ours and has a file."""
    name = str(getattr(function, "__module__", ""))
    outside = name.split(".")[0] not in ("verl", "verl_ext")
    return [name] if outside and getattr(sys.modules.get(name), "__file__", None) else []


def digests(names: Iterable[str]) -> dict[str, str]:
    """Loaded module -> 16 digits of the SHA-256 of its file."""
    files = {name: Path(str(sys.modules[name].__file__)) for name in names}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items()}


def faults(config: Any) -> list[str]:
    """Load the modules that a composed configuration names; what is wrong with them, as sentences."""
    given = named_in(config)
    if given is None:
        return []
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or not all(isinstance(name, str) for name in given):
        return [f"{KEY}={given}: a list of module names is wanted, for instance +{KEY}=[my_package.my_loss]"]
    try:
        load(given)
    except ModuleError as error:
        return [f"{KEY}: {error}"]
    before = environment_of(config).get(VARIABLE)
    # Without digests, as a person writes it, the same modules are no clash.
    if before not in (None, _text(given), ",".join(given)):
        return [f"{ENVIRONMENT}.{VARIABLE}={before} names other modules than {KEY}={list(given)}; drop one of them"]
    return []


def hand_on(config: Any) -> None:
    """In the driver, before Ray starts: have every process of the run load what the configuration names."""
    from omegaconf import OmegaConf

    given = named_in(config)
    if not given:
        return
    os.environ[VARIABLE] = _text(given)
    OmegaConf.update(config, f"{ENVIRONMENT}.{VARIABLE}", os.environ[VARIABLE], force_add=True)


def named_in(config: Any) -> Any:
    """What stands at `verl_ext.modules`; None where the node is no mapping, which is a fault of its own."""
    node = config.get("verl_ext", None)
    return node.get("modules", None) if isinstance(node, Mapping) else None


def environment_of(config: Any) -> Mapping[str, str]:
    """The variables that the job itself gives to Ray's processes."""
    from omegaconf import OmegaConf

    return OmegaConf.select(config, ENVIRONMENT, default=None) or {}


def _text(names: Iterable[str]) -> str:
    return ",".join(f"{name}@{digest}" for name, digest in digests(names).items())

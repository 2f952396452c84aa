"""What a configuration names on the disk: models, data, and code; whether it is here."""

from __future__ import annotations

import ast
import os
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from verl_ext.run.name import listed

REWARD = "reward.custom_reward_function"
CODE = (f"{REWARD}.path", "reward.reward_manager.module.path", "data.custom_cls.path")
_PACKAGE, _FILE = "pkg://", "file://"


def models(config: Any) -> dict[str, str]:
    """Setting -> path or name on a hub, of every model that the run loads."""
    model, critic, reward = config.actor_rollout_ref.model, config.critic, config.reward.reward_model
    found = {"actor_rollout_ref.model.path": model.path}
    if model.get("tokenizer_path", None):
        found["actor_rollout_ref.model.tokenizer_path"] = model.tokenizer_path
    if critic.enable or (critic.enable is None and str(config.algorithm.adv_estimator) == "gae"):
        found["critic.model.path"] = critic.model.path
    if reward.enable:
        found["reward.reward_model.model_path"] = reward.model_path
    return {key: os.path.expanduser(str(path)) for key, path in found.items()}


def data(config: Any) -> dict[str, str]:
    """Setting -> data file."""
    named = {key: [str(file) for file in listed(config.data.get(key, None))] for key in ("train_files", "val_files")}
    return {
        f"data.{key}" + (f"[{index}]" if len(files) > 1 else ""): os.path.expanduser(file)
        for key, files in named.items()
        for index, file in enumerate(files)
    }


def code(config: Any) -> dict[str, str]:
    """Setting -> Python file or ``pkg://`` module that verl loads by its path."""
    found = {key: OmegaConf.select(config, key) for key in CODE}
    return {key: str(path) for key, path in found.items() if path}


def absent(config: Any) -> dict[str, str]:
    """Setting -> sentence, of what is not on this machine; of what lies behind a protocol nothing is known."""
    found = {key: "" for key, path in models(config).items() if not model_here(path)}
    if not config.data.custom_cls.path:  # a class of one's own may read anything
        lost = (key for key, path in data(config).items() if not ("://" in path or Path(path).is_file()))
        found |= dict.fromkeys(lost, "; see verl-ext data prepare")
    found |= {key: "" for key, path in code(config).items() if source(path) is None}
    named = {**models(config), **data(config), **code(config)}
    sentences = {key: f"{key}={named[key]}: not on this machine{hint}" for key, hint in found.items()}
    return {**sentences, **absent_function(config)}


def model_here(path: str) -> bool:
    """Whether a model's folder is here, or the path may be a name on a hub."""
    from verl_ext.checks.probe import is_hub_name

    return is_hub_name(path) or Path(path).is_dir()


def source(path: str) -> str | None:
    """The file of code that verl would load from here, or another protocol's address; None where there is none.

    Nothing is imported, so that looking has no effects.
    """
    if not path.startswith(_PACKAGE):
        file = path.removeprefix(_FILE)
        return file if "://" in file or os.path.isfile(file) else None
    first, *further = path.removeprefix(_PACKAGE).replace("/", ".").split(".")
    # verl's entry point, started as a module, looks into the working directory first.
    spec = PathFinder.find_spec(first, [os.getcwd()]) or find_spec(first)
    for name in further:
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations or ())) if spec else None
    return spec.origin if spec else None


def absent_function(config: Any) -> dict[str, str]:
    """A reward function that its file does not define."""
    from verl_ext.hyper import nearest

    path, name = (OmegaConf.select(config, f"{REWARD}.{key}") for key in ("path", "name"))
    file = source(str(path)) if path else None
    if file is None or not file.endswith(".py") or not os.path.isfile(file):
        return {}
    try:
        names = defined(ast.parse(Path(file).read_bytes()))
    except SyntaxError as error:
        return {f"{REWARD}.path": f"{REWARD}.path={path}: not Python: {error.msg} in line {error.lineno}"}
    if names is None or name in names:
        return {}
    return {f"{REWARD}.name": f"{REWARD}.name={name}: not defined in {path}{nearest(str(name), names)}"}


def defined(tree: ast.Module) -> set[str] | None:
    """Names that a module binds at its top level; None where only running it would tell."""
    found: set[str] = set()
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name):
            found.add(node.id)
        waiting += ast.iter_child_nodes(node)
    return None if found & {"*", "__getattr__", "globals", "exec", "setattr"} else found

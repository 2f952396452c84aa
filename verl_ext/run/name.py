"""What a run is called, and with it where it keeps its checkpoints.

verl calls every run `verl_examples/gsm8k` and resumes from what lies in the folder of that name: two runs would take
each other's weights. A name that nobody has chosen is made of the row or method, the model, the data and the seed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from verl_ext.run.checkpoint import layout

VERLS = {"project_name": "verl_examples", "experiment_name": "gsm8k"}
"""verl's defaults of the keys in `trainer`."""

SEEDS = ("data.seed", "actor_rollout_ref.rollout.seed", "actor_rollout_ref.actor.data_loader_seed")
# What a row's name says as well, unless one of these keys is set beside it.
_OF_A_ROW = {
    "algo": {"algo", "algorithm.adv_estimator", "actor_rollout_ref.actor.policy_loss.loss_mode"},
    "model": {"model", "actor_rollout_ref.model.path"},
    "data": {"data@_global_", "data.train_files"},
}


def give(config: Any, choices: Mapping[str, str], overrides: Iterable[str]) -> dict[str, str]:
    """Set the names that nobody has chosen, in `config`.

    Args:
        config: verl's composed configuration.
        choices: group -> option.
        overrides: Hydra overrides that it was composed with.

    Returns:
        Key of `trainer` -> the name that was given; empty where all were chosen.
    """
    set_by_hand = _keys(overrides)
    given = {
        key: name
        for key, name in made(config, choices, overrides).items()
        if config.trainer[key] == VERLS[key] and f"trainer.{key}" not in set_by_hand
    }
    config.trainer.update(given)
    return given


def made(config: Any, choices: Mapping[str, str], overrides: Iterable[str]) -> dict[str, str]:
    """Key of `trainer` -> the name that a run has if nobody chooses another, fit for a folder and for wandb.

    Example:
        >>> from verl_ext.train import compose
        >>> compose(["algo=espo", "model=qwen2_5_3b", "data=math_l3to5", "data.seed=42"]).names
        {'project_name': 'verl_ext', 'experiment_name': 'espo-Qwen2.5-3B-math_l3to5-qwen_math-seed42'}
    """
    project, _, row = choices.get("experiment", "").partition("/")
    parts = {
        "algo": choices.get("algo") or _method(config),
        "model": Path(str(config.actor_rollout_ref.model.path)).name,
        "data": _data(config.data.train_files),
    }
    if row:
        changed = _keys(overrides)
        parts = {name: text for name, text in parts.items() if _OF_A_ROW[name] & changed}
    words = [row.replace("/", "-"), *parts.values(), _seed(config)]
    return {
        "project_name": _clean(project or "verl_ext"),
        "experiment_name": "-".join(_clean(word) for word in words if word),
    }


def folder_faults(config: Any, choices: Mapping[str, str], overrides: Iterable[str]) -> list[str]:
    """Checkpoints under the name that this run had before it was given one of its own, and none under its own.

    Args:
        config: as of `give`, after it.
        choices: as of `give`.
        overrides: as of `give`.
    """
    trainer = config.trainer
    own = Path(trainer.default_local_dir)
    if trainer.resume_mode != "auto" or layout.steps(own):
        return []
    given = {key for key, name in made(config, choices, overrides).items() if trainer[key] == name}
    formers = [{key: VERLS[key] for key in given}]
    if (paper := choices.get("experiment", "").partition("/")[0]) and "experiment_name" in given:
        formers.append({"experiment_name": paper})  # as configs/experiment/demo.yaml called all its rows
    return [
        f"{own} holds no checkpoint, so that this run would start from step 0, but {former} does, where a run without "
        f"a name of its own was kept. Set trainer.default_local_dir={former} to go on from there, or "
        f"trainer.default_local_dir={own} to start anew"
        for former in dict.fromkeys(_folder(config, names) for names in formers)
        if former != own and layout.steps(former)
    ]


def _folder(config: Any, names: Mapping[str, str]) -> Path:
    """Where the run would keep its checkpoints under other names."""
    other = copy.deepcopy(config)
    other.trainer.update(names)
    return Path(other.trainer.default_local_dir)


def _keys(overrides: Iterable[str]) -> set[str]:
    return {override.lstrip("+~").partition("=")[0] for override in overrides}


def _method(config: Any) -> str:
    """Estimator and loss, in one word where they are called the same."""
    names = (str(config.algorithm.adv_estimator), str(config.actor_rollout_ref.actor.policy_loss.loss_mode))
    return "-".join(dict.fromkeys(names))


def _data(files: Any) -> str:
    """The first file's folder and name, and how many there are.

    Example:
        >>> _data(["/data/math/boxed.parquet", "/data/more.parquet"])
        'math-boxed-2files'
    """
    paths = [Path(str(file)) for file in listed(files)]
    named = [f"{path.parent.name}-{path.stem}".lstrip("-") for path in paths[:1]]
    return "-".join([*named, *([f"{len(paths)}files"] if len(paths) > 1 else [])])


def listed(value: Any) -> list[Any]:
    """A value of the configuration that may be none, one or several.

    Example:
        >>> listed(None), listed("a"), listed(["a", "b"])
        ([], ['a'], ['a', 'b'])
    """
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _seed(config: Any) -> str:
    from omegaconf import OmegaConf

    found = dict.fromkeys(OmegaConf.select(config, key) for key in SEEDS)
    return "seed" + "-".join(str(seed) for seed in found if seed is not None)


def _clean(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", word)

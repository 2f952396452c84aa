"""Hyper-parameters of a run, from what lies beside its log: what its workers printed, and Hydra's configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KEYS = {
    "model": "actor_rollout_ref.model.path",
    "estimator": "algorithm.adv_estimator",
    "aggregation": "actor_rollout_ref.actor.loss_agg_mode",
    "learning rate": "actor_rollout_ref.actor.optim.lr",
    "prompts a step": "data.train_batch_size",
    "responses a prompt": "actor_rollout_ref.rollout.n",
    "prompts a mini-batch": "actor_rollout_ref.actor.ppo_mini_batch_size",
    "KL term in the loss": "actor_rollout_ref.actor.use_kl_loss",
    "temperature": "actor_rollout_ref.rollout.temperature",
    "response length, most": "data.max_response_length",
    "seed of the data": "data.seed",
}
"""What is shown of a configuration, and where it stands there."""
_RAN = re.compile(rb"verl_ext\.execution (\{.*\})")
_HYDRA = ("hydra/.hydra/config.yaml", ".hydra/config.yaml")


def settings(files: Sequence[Path]) -> dict[str, str]:
    """Name -> value of what is known; empty where nothing lies beside the log.

    Args:
        files: of the run's log, in order; their folder is looked into, and the one above where that is ``logs``.
    """
    if not files:
        return {}
    folder = files[-1].resolve().parent
    folders = [folder, *([folder.parent] if folder.name == "logs" else [])]
    return {**_ran(folders), **_configured(folders)}


def _ran(folders: Sequence[Path]) -> dict[str, str]:
    """The loss and its hyper-parameters, as the workers of the latest attempt printed them."""
    logs = [log for folder in folders for log in folder.glob("train*.log")]
    for log in sorted(logs, key=lambda log: log.stat().st_mtime, reverse=True):
        for what in _printed(log):
            own = {f"{what.get('loss')}: {name}": value for name, value in what.get("hyper_parameters", {}).items()}
            return {name: _text(value) for name, value in {"loss": what.get("loss"), **own}.items()}
    return {}


def _printed(log: Path) -> Iterator[Mapping[str, Any]]:
    with log.open("rb") as lines:
        for line in lines:
            if match := _RAN.search(line):
                yield json.loads(match[1])


def _configured(folders: Sequence[Path]) -> dict[str, str]:
    file = next((folder / name for folder in folders for name in _HYDRA if (folder / name).is_file()), None)
    if file is None:
        return {}
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = OmegaConf.load(file)
    found = {}
    for name, key in KEYS.items():
        try:
            value = OmegaConf.select(config, key)
        except OmegaConfBaseException:  # it refers to a variable that is not set here
            continue
        if value is not None:
            found[name] = "/".join(Path(str(value)).parts[-2:]) if name == "model" else _text(value)
    return found


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

"""configs/algo/<name>.yaml of methods that nobody wrote one for: the method, and what it reads switched on.

A preset written by hand, with a clip range or a coefficient of a paper's, is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from verl_ext import plugin

MARK = "# Made by `make docs`; remove this line to keep changes of your own."


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Path in the repository and content of each preset that is made."""
    for name in dict.fromkeys([*plugin.POLICY_LOSSES, *plugin.ESTIMATORS]):
        if is_made(folder / f"{name}.yaml"):
            yield f"configs/algo/{name}.yaml", render(name)


def is_made(file: Path) -> bool:
    """Whether the file is to be made: it is not there, or was made."""
    return not file.is_file() or MARK in file.read_text("utf-8").splitlines()


def render(name: str) -> str:
    """The preset of a method: a loss and an estimator of one name together."""
    loss, estimator = plugin.POLICY_LOSSES.get(name), plugin.ESTIMATORS.get(name)
    title = (loss or plugin.ESTIMATORS[name]).title
    reads = {*(loss.reads if loss else ()), *(estimator.reads if estimator else ())}
    return "\n".join(
        [
            *("# @package _global_", MARK, f"# {title or name}"),
            *("algorithm:", f"  adv_estimator: {name if estimator else 'grpo'}"),
            *("actor_rollout_ref:", "  actor:"),
            f"    loss_agg_mode: {loss.aggregations[0] if loss else 'token-mean'}",
            *(["    calculate_entropy: true"] if "entropy" in reads else []),
            *(["    use_kl_loss: true", "    kl_loss_coef: 0.0"] if "ref_log_prob" in reads else []),
            *("    policy_loss:", *policy_loss(loss)),
            "verl_ext: {}  # marks the run as one of ours\n",
        ]
    )


def policy_loss(loss: plugin.PolicyLoss | None) -> list[str]:
    """The lines under `policy_loss`."""
    if loss is None:
        return ["      loss_mode: vanilla"]
    config = loss.config_type()
    return [f"      _target_: {config.__module__}.{config.__qualname__}", f"      loss_mode: {loss.name}"]

"""What is asked of the configured reward, and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from verl_ext.checks import files
from verl_ext.checks.collecting import Findings
from verl_ext.reward_probe import row as rows
from verl_ext.rewards.pool import JobResult, ProcessPool
from verl_ext.run import settings as run_settings

LIMIT_S = 30.0
"""For loading the function and all its calls; imports of a large library take seconds on a busy machine."""

OFF = "+verl_ext.reward_probe=off"
DEFAULT = ("pkg://verl.utils.reward_score", "default_compute_score")
OWN = "pkg://verl_ext."
UNREADABLE = "I do not know."
AGENTS = ("single_turn_agent", "tool_agent")
"""Agent loops after which verl calls the reward function; one of somebody else may have rewards of its own."""

_TASK = Path(__file__).with_name("_task.py")


@dataclass(frozen=True)
class Asked:
    """One probe.

    Attributes:
        what: the function, for people.
        where: the row, for people.
        row: keyword arguments of the function.
        answers: what it is asked to grade; the first is right, where `right` says so.
        right: whether a right answer could be written.
        unwritten: why not.
        verified: names of estimators that read ``verified``.
    """

    what: str
    where: str
    row: Mapping[str, Any]
    answers: tuple[str, ...]
    right: bool
    unwritten: str
    verified: tuple[str, ...]


def findings(config: Any) -> Findings:
    """Faults where no response could ever be graded, notes on all else.

    Args:
        config: without faults otherwise.
    """
    if not run_settings.switched(config, "reward_probe"):
        return Findings([], [])
    if why := beyond(config):
        return Findings([], [f"the reward was not probed: {why}"])
    named = [path for key, path in files.data(config).items() if key.startswith("data.train_files")]
    path = next((path for path in named if Path(path).is_file()), None)
    if path is None:
        return Findings([], ["the reward was not probed: no training data on this machine"])
    try:
        row = rows.first(path)
    except (ValueError, OSError) as error:
        return Findings([f"data.train_files: {path} cannot be read: {error}"], [])
    if lacking := _lacking(row):
        return Findings([f"data.train_files: {path} has no {lacking}, which verl hands to the reward function"], [])
    return _probed(config, row, path)


def beyond(config: Any) -> str:
    """Why a reward cannot be probed, or nothing."""
    reward = config.reward
    if reward.reward_model.enable:
        return "it comes from a reward model"
    if reward.reward_manager.source != "register":
        return f"reward.reward_manager.source={reward.reward_manager.source}"
    if (reward.get("sandbox_fusion", None) or {}).get("url", None):
        return "it comes from a sandbox (reward.sandbox_fusion.url)"
    if config.data.custom_cls.path:
        return "data.custom_cls makes the rows"
    agent = (config.actor_rollout_ref.rollout.get("agent", None) or {}).get("default_agent_loop", AGENTS[0])
    return "" if agent in AGENTS else f"the agent loop {agent} may have one of its own"


def _lacking(row: Mapping[str, Any]) -> str:
    if "data_source" not in row:
        return "column data_source"
    known = row.get("reward_model")
    return "" if isinstance(known, dict) and "ground_truth" in known else "reward_model.ground_truth"


def _probed(config: Any, row: dict[str, Any], path: str) -> Findings:
    node = config.reward.get("custom_reward_function", None) or OmegaConf.create()
    custom: Any = OmegaConf.to_container(node, resolve=True)
    asked = _asked(config, row, path, custom)
    if not custom.get("path") and not asked.right:
        return Findings([], [f"the reward was not probed: {asked.where}: {asked.unwritten}"])
    file, name = (custom["path"], custom["name"]) if custom.get("path") else DEFAULT
    request = {
        "path": file,
        "name": name,
        "fixed": custom.get("reward_kwargs") or {},
        "row": asked.row,
        "answers": asked.answers,
        "own_thread": config.reward.reward_manager.name != "remote",
        "router": file.startswith(OWN) or file == DEFAULT[0],
    }
    return judged(asked, run(request))


def _asked(config: Any, row: dict[str, Any], path: str, custom: Mapping[str, Any]) -> Asked:
    from verl_ext import plugin

    answer, why = rows.right_answer(row, config.data.prompt_key)
    method = plugin.ESTIMATORS.get(str(config.algorithm.adv_estimator))
    reads = method is not None and "verified" in method.needed(config.algorithm)
    what = f"{files.REWARD}: {custom['name']} of {custom['path']}" if custom.get("path") else "verl's default reward"
    # What verl's reward managers add to a row's own information.
    added = {"num_turns": 2, "rollout_reward_scores": {}, "experiment_name": config.trainer.experiment_name}
    return Asked(
        what=what,
        where=f"the first row of {path} (data_source {row['data_source']})",
        row={
            "data_source": row["data_source"],
            "ground_truth": row["reward_model"]["ground_truth"],
            "extra_info": {**(row.get("extra_info") or {}), **added},
        },
        answers=(UNREADABLE if answer is None else answer, ""),
        right=answer is not None,
        unwritten=why,
        verified=(method.name,) if method is not None and reads else (),
    )


def run(request: Mapping[str, Any]) -> JobResult:
    """What the child answers; neither it nor what it started is left behind."""
    pool = ProcessPool(_TASK, "probe", workers=1, start_timeout_s=LIMIT_S, memory_bytes=0)
    try:
        return pool.run(request, timeout_s=LIMIT_S)
    except RuntimeError as error:  # the child itself could not start
        return JobResult("timeout", detail=str(error))
    finally:
        pool.close()


def judged(asked: Asked, answer: JobResult) -> Findings:
    """What the child's answer means."""
    if answer.status == "timeout":
        return Findings([], [f"{asked.what}: not probed: {answer.detail}; {OFF} leaves the probe out"])
    if answer.status == "error":
        return Findings([f"{asked.what}: the process that called it ended: {answer.detail}"], [])
    if "lost" in answer.value:
        return Findings([f"{asked.what} cannot be loaded: {answer.value['lost']}"], [])
    if "router" in answer.value:
        return Findings([], [f"{asked.what}: not probed: it takes the address of a reward model's router"])
    return _graded(asked, answer.value["results"])


def _graded(asked: Asked, results: Sequence[Mapping[str, Any]]) -> Findings:
    wrong = [_wrong(asked, text, result) for text, result in zip(asked.answers, results, strict=True)]
    accepted = [result for result in results if "score" in result]
    if not accepted:
        return Findings([f"{asked.what}: {wrong[0]}"], [])
    faults = [
        f"{asked.what}: its result has no `verified`, which {name} (estimator) needs: whether the response could be "
        f"judged at all; verl_ext.rewards.math returns it"
        for name in asked.verified
        if not any("verified" in result["keys"] for result in accepted)
    ]
    return Findings(faults, [*(f"{asked.what}: {one}" for one in wrong if one), *_worth(asked, results)])


def _wrong(asked: Asked, text: str, result: Mapping[str, Any]) -> str:
    """What is wrong with one result, or nothing."""
    if "score" in result:
        return ""
    said = f"{result['raised']}" if "raised" in result else f"it returns {result['refused']}, not a number or a dict"
    return f"for {text!r} as a response to {asked.where}: {said}" + (
        " with a number `score`" if "refused" in result else ""
    )


def _worth(asked: Asked, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether a right answer earns more than none."""
    if not asked.right:
        return [f"{asked.what}: no right answer was tried on {asked.where}: {asked.unwritten}"]
    right, empty = (result.get("score") for result in results)
    if right is None or empty is None or right > empty:
        return []
    return [
        f"{asked.what} gives {right:g} for {asked.answers[0]!r}, the ground truth in the format of {asked.where}, and "
        f"{empty:g} for an empty response: a run may never see a reward"
    ]

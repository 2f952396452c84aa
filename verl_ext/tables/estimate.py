"""GPU-hours of a row: an estimate from the model's size, the tokens and a stated efficiency.

With N active parameters, a token costs 2N floating-point operations forwards and 6N forwards and backwards::

    rollout tokens of a step   R = prompts x responses x (prompt + response tokens)
    training, operations       steps x R x N x (6 + 2 [old log-probs] + 2 [reference])
    rollouts, operations       steps x R x 2 N
    evaluation, operations     problems x samples x (prompt + response tokens) x 2 N, for each kept checkpoint
    GPU-hours                  (training / `TRAIN_EFFICIENCY` + (rollouts + evaluation) / `DECODE_EFFICIENCY`)
                               / `PEAK` / 3600

A prompt is taken as `PROMPT_TOKENS`, a response as `RESPONSE_SHARE` of the longest allowed, both at most what the
configuration allows. Start-up, checkpoints, idle time and attention are not in it. Take it as the size of the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verl_ext.sizing.architectures import published

if TYPE_CHECKING:
    from verl_ext.tables.job import Job

PEAK = 989e12
"""Dense bfloat16 operations a second of an H100 or H200, from its data sheet."""
TRAIN_EFFICIENCY = 0.35
DECODE_EFFICIENCY = 0.10
PROMPT_TOKENS = 200
RESPONSE_SHARE = 0.5
ACTIVE_PARAMETERS: Mapping[str, int] = {key: entry.active_parameters for key, entry in published().items()}
"""Parameters that a token uses, as `verl_ext.sizing` counts them."""


@dataclass(frozen=True)
class Estimate:
    """GPU-hours of one run, and the training steps behind it.

    Attributes:
        training: updates and rollouts; None where epochs decide and the number of problems is not known.
        evaluation: None where a benchmark's number of problems is not known.
        steps: training steps; None as for `training`, 0 without training.
    """

    training: float | None
    evaluation: float | None
    steps: int | None

    @property
    def total(self) -> float | None:
        return None if self.training is None or self.evaluation is None else self.training + self.evaluation


def hours(operations: float, efficiency: float) -> float:
    """GPU-hours of a number of operations.

    Example:
        >>> round(hours(989e12 * 3600, 1.0), 6)
        1.0
    """
    return operations / (efficiency * PEAK * 3600)


def estimate(job: Job) -> Estimate:
    """The estimate of a row of any kind that has a run."""
    parameters = ACTIVE_PARAMETERS.get(job.row.choices.get("model", ""), 0.0)
    if job.row.kind == "evaluate":
        return Estimate(0.0, _evaluation(job, parameters, kept=1), 0)
    config = job.config()
    steps = _steps(job, config)
    training = None if steps is None else _training(job, config, parameters, steps)
    every = job.row.checkpoint.every
    kept = 1 if every is None or steps is None else max(1, steps // every)
    return Estimate(training, _evaluation(job, parameters, kept), steps)


def _training(job: Job, config: Mapping[str, Any], parameters: float, steps: int) -> float:
    data = config["data"]
    if job.row.kind == "sft":
        tokens = data["train_batch_size"] * data["max_length"] * RESPONSE_SHARE
        return hours(steps * tokens * 6 * parameters, TRAIN_EFFICIENCY)
    actor, rollout = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["rollout"]
    responses = data["train_batch_size"] * rollout["n"]
    tokens = responses * _length(data["max_prompt_length"], data["max_response_length"])
    reference = bool(actor["use_kl_loss"]) or bool(config["algorithm"]["use_kl_in_reward"])
    bypass = bool((config["algorithm"].get("rollout_correction") or {}).get("bypass_mode"))
    per_token = 6 + 2 * (not bypass) + 2 * reference
    training = hours(steps * tokens * per_token * parameters, TRAIN_EFFICIENCY)
    return training + hours(steps * tokens * 2 * parameters, DECODE_EFFICIENCY)


def _length(prompt: int, response: int) -> float:
    return min(PROMPT_TOKENS, prompt) + RESPONSE_SHARE * response


def _steps(job: Job, config: Mapping[str, Any]) -> int | None:
    from verl_ext.data.registry import datasets

    trainer = config["trainer"]
    if trainer.get("total_training_steps"):
        return int(trainer["total_training_steps"])
    known = datasets().get(job.row.choices["data"])
    problems = known and (known.train_rows or known.drawn or known.problems or known.rows)
    if not problems:
        return None
    return int(trainer["total_epochs"] * (problems // config["data"]["train_batch_size"]))


def _evaluation(job: Job, parameters: float, kept: int) -> float | None:
    from verl_ext.data.registry import datasets
    from verl_ext.tables.evaluating import measured

    operations = 0.0
    for column in measured(job).values():
        known = datasets().get(str(column.benchmark))
        problems = known and (known.problems or known.rows)
        if not problems:
            return None
        decoding = job.table.decodings[str(column.decoding)]
        tokens = problems * decoding.samples * _length(PROMPT_TOKENS, decoding.max_tokens)
        operations += kept * tokens * 2 * parameters
    return hours(operations, DECODE_EFFICIENCY)

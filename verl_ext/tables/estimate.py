"""GPU-hours of a row: those of `verl_ext.sizing`, step by step, of the training and of the evaluation.

::

    training     steps x GPU-hours of a step, as ``verl-ext doctor plan`` has them for the same configuration
    sft          steps x tokens x operations of a trained token / (35% of the peak)
    evaluation   kept checkpoints x seconds of the responses to each benchmark on one engine x its GPUs

on a `GPU`, or on this machine where the row trains on the CPU. Lengths are taken as `verl_ext.sizing.cost` takes them;
start-up, checkpoints and idle time are not in it. Take it as the size of the job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verl_ext.evaluation.request import EngineOptions
from verl_ext.sizing import gpus
from verl_ext.sizing.cost import PROMPT_TOKENS, RESPONSE_SHARE, TRAIN_EFFICIENCY, rollout_seconds, trained_token
from verl_ext.sizing.measuring import measure
from verl_ext.sizing.model import Model
from verl_ext.sizing.rollout import engine
from verl_ext.sizing.settings import Rollouts
from verl_ext.train import plan as command
from verl_ext.train.plan import GPU

if TYPE_CHECKING:
    from verl_ext.tables.job import Job

RUNNING, BATCHED_TOKENS = 1024, 16384
"""vLLM's own for its ``LLM`` class on a GPU of 70 GiB or more, of which the evaluation asks for nothing else."""


@dataclass(frozen=True)
class Estimate:
    """GPU-hours of one run, and the training steps behind it.

    Attributes:
        training: updates and rollouts; None where epochs decide and the number of problems is not known, or where
            nothing can be generated.
        evaluation: None where a benchmark's number of problems is not known, or where nothing can be generated.
        steps: training steps; None where they are not known, 0 without training.
    """

    training: float | None
    evaluation: float | None
    steps: int | None

    @property
    def total(self) -> float | None:
        return None if self.training is None or self.evaluation is None else self.training + self.evaluation


def estimate(job: Job) -> Estimate:
    """The estimate of a row of any kind that has a run.

    Raises:
        ValueError: the configuration cannot be composed, or its model not be sized.
    """
    if job.row.kind == "evaluate":
        return Estimate(0.0, 0.0 if job.row.endpoint else _evaluation(job, kept=1), 0)
    config = job.config()
    steps = _steps(job, config)
    training = None if steps is None else _finite(steps * _step(job, config))
    every = job.row.checkpoint.every
    kept = 1 if every is None or steps is None else max(1, steps // every)
    return Estimate(training, _evaluation(job, kept), steps)


def _step(job: Job, config: Mapping[str, Any]) -> float:
    if job.row.kind != "sft":
        composed = job.composed.config
        return command.of(composed, command.device_of(composed)).gpu_hours
    data, model = config["data"], _model(job)
    length = data["max_length"] * RESPONSE_SHARE
    checkpointing = bool(config["model"]["enable_gradient_checkpointing"])
    operations = data["train_batch_size"] * length * trained_token(model, length, checkpointing)
    return operations / (gpus.device(GPU).operations * TRAIN_EFFICIENCY) / 3600


def _model(job: Job) -> Model:
    from verl_ext.tables.job import model_path

    return measure(model_path(job.row.choices["model"]))


def _finite(hours: float) -> float | None:
    return hours if math.isfinite(hours) else None


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


def _evaluation(job: Job, kept: int) -> float | None:
    from verl_ext.data.registry import datasets
    from verl_ext.tables.evaluating import measured

    seconds, model, device = 0.0, _model(job), gpus.device(GPU)
    for column in measured(job).values():
        known = datasets().get(str(column.benchmark))
        problems = known and (known.problems or known.rows)
        if not problems:
            return None
        decoding = job.table.decodings[str(column.decoding)]
        asked = _rollouts(problems, decoding.samples, decoding.max_tokens, job.tensor_parallel)
        seconds += rollout_seconds(model, asked, engine(model, asked, device.memory), device)
    return _finite(kept * seconds * job.tensor_parallel / 3600)


def _rollouts(problems: int, samples: int, tokens: int, ways: int) -> Rollouts:
    """One engine of the evaluation."""
    return Rollouts(
        cpu=False, prompts=problems, responses=samples, prompt_tokens=PROMPT_TOKENS, response_tokens=tokens,
        lora_rank=0, lora_targets=(), lora_excluded=None, rollout_gpus=ways, rollout_tensor=ways, rollout_data=1,
        rollout_expert=ways, rollout_bytes=2, utilization=EngineOptions.memory_share, running=RUNNING,
        model_length=PROMPT_TOKENS + tokens, batched_tokens=BATCHED_TOKENS, kv_space=0,
    )  # fmt: skip

"""The stages of a run: what each depends on, and how it is done.

``inputs`` of a stage are plain data whose hash is the stage's key; they hold settings, hashes of data and fingerprints
of models, and no path, so that a folder may be moved. ``perform`` does the work and fills in the outputs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from verl_ext.tables import results
from verl_ext.tables.datasets import benchmark_sets, data_folder, intact, model_of, prepare_set, training_sets
from verl_ext.tables.evaluating import evaluate, evaluation_inputs
from verl_ext.tables.export import export
from verl_ext.tables.job import Job
from verl_ext.tables.training import command_line, end_leftovers, last_step, saved_steps, train
from verl_ext.tables.work import StageError

Outputs = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        inputs: what it depends on; called when the stages before it are done.
        perform: does it.
        intact: whether what it left is still there.
        folder: what to remove before it is done for other inputs.
        cheap: done again without asking when its inputs changed.
    """

    inputs: Callable[[Job], dict[str, Any]]
    perform: Callable[[Job, Outputs, Console], None]
    intact: Callable[[Job], bool]
    folder: Callable[[Job], Path | None]
    cheap: bool = False


def _data_inputs(job: Job) -> dict[str, Any]:
    return {"sets": sorted(training_sets(job) | benchmark_sets(job)), "model": job.row.choices.get("model")}


def _prepare_data(job: Job, outputs: Outputs, console: Console) -> None:
    outputs["files"] = {name: prepare_set(job, name) for name in sorted(training_sets(job) | benchmark_sets(job))}
    outputs["model"] = model_of(job)


def _train_inputs(job: Job) -> dict[str, Any]:
    from verl_ext.evaluation.request import model_identity

    outputs = job.work.outputs("data")
    return {
        "config": job.config(),
        "data": {name: outputs["files"][name] for name in sorted(training_sets(job, ("train_files",)))},
        "model": model_identity(outputs["model"]),
        "checkpoint": str(job.row.checkpoint),
    }


def _train(job: Job, outputs: Outputs, console: Console) -> None:
    work, total = job.work, job.config()["trainer"].get("total_training_steps")
    end_leftovers(work, console)  # before looking at the checkpoints, which an orphan would go on writing
    if total is None or last_step(work.checkpoints) < total:
        if (step := last_step(work.checkpoints)) > 0:
            console.print(f"  training goes on from step {step}", highlight=False)
        _save_config(job)
        model = work.outputs("data")["model"]
        with data_folder(job) as root:
            train(train_command(job, model), work, total, {"VERL_EXT_DATA": str(root), **_platform(job)}, console)
    last = last_step(work.checkpoints)
    if last == 0 or (total is not None and last != total):
        raise StageError(f"the trainer ended without an error, its last checkpoint is of step {last}, not {total}")
    steps = saved_steps(work.checkpoints) if job.row.checkpoint.rule == "best" else [last]
    outputs["steps"] = steps


def train_command(job: Job, model: str) -> list[str]:
    """The whole command line of the row's training.

    Raises:
        StageError: with what `verl_ext.train.check` finds wrong with the configuration.
    """
    from verl_ext.recipe_files.schema import literal
    from verl_ext.train import check, compose

    if job.row.kind == "sft":
        return sft_command(job, model)
    composed = compose(job.arguments([f"actor_rollout_ref.model.path={literal(model)}", *job.runtime()]))
    if faults := check(composed.config, composed.preset):
        raise StageError("the configuration is not fit for training", [f"- {fault}" for fault in faults])
    return command_line(composed.command())


def _platform(job: Job) -> dict[str, str]:
    from verl_ext.platform.cpu import cpu_env

    return cpu_env() if _backend(job) == "cpu" else {}


def _backend(job: Job) -> str:
    return job.composed.choices.get("backend", "fsdp") if job.row.kind == "train" else "fsdp"


def _save_config(job: Job) -> None:
    from omegaconf import OmegaConf

    job.work.folder.mkdir(parents=True, exist_ok=True)
    head = f"# {job.name}, config {job.config_hash}\n"
    (job.work.folder / "config.yaml").write_text(head + OmegaConf.to_yaml(OmegaConf.create(job.config())))


def _export_inputs(job: Job) -> dict[str, Any]:
    return {"train": job.work.stages()["train"]["key"], "steps": job.work.outputs("train")["steps"]}


def _export(job: Job, outputs: Outputs, console: Console) -> None:
    from verl_ext.evaluation.request import model_identity

    work, models = job.work, {}
    for step in work.outputs("train")["steps"]:
        folder = work.checkpoints / f"global_step_{step}"
        checkpoint = folder if job.row.kind == "sft" else folder / "actor"
        backend = "megatron" if _backend(job) == "megatron" else "fsdp"
        target = export(checkpoint, work.models / f"step_{step}", backend, work.logs / f"export-{step}.log")
        models[str(step)] = model_identity(str(target))
    outputs["models"] = models


def _export_intact(job: Job) -> bool:
    return all((job.work.models / f"step_{step}").is_dir() for step in job.work.outputs("export")["models"])


def _evaluate(job: Job, outputs: Outputs, console: Console) -> None:
    evaluate(job, console)


def _evaluated(job: Job) -> bool:
    return job.work.evaluation.is_dir()


def _result_inputs(job: Job) -> dict[str, Any]:
    columns = [asdict(column) for column in job.table.columns]
    return {"evaluate": job.work.stages()["evaluate"]["key"], "columns": columns, "rule": asdict(job.row.checkpoint)}


def _result(job: Job, outputs: Outputs, console: Console) -> None:
    outputs["file"] = results.write(job).name


STAGES: dict[str, Stage] = {
    "data": Stage(_data_inputs, _prepare_data, intact, lambda job: None, cheap=True),
    "train": Stage(_train_inputs, _train, lambda job: True, lambda job: job.work.checkpoints),
    "export": Stage(_export_inputs, _export, _export_intact, lambda job: job.work.models),
    "evaluate": Stage(evaluation_inputs, _evaluate, _evaluated, lambda job: job.work.evaluation),
    "result": Stage(_result_inputs, _result, lambda job: job.work.result_file.exists(), lambda job: None, cheap=True),
}


def discard(job: Job, first: str) -> None:
    """Remove what a stage and those after it left, so that they are done afresh."""
    later = job.stages[job.stages.index(first) :]
    job.work.forget(first)
    for stage in later:
        folder = STAGES[stage].folder(job)
        if folder is not None and folder.exists():
            shutil.rmtree(folder)


def sft_command(job: Job, model: str) -> list[str]:
    """torchrun on this machine with verl's supervised trainer."""
    config, work = job.config(), job.work
    every = job.row.checkpoint.every or (
        config["trainer"]["save_freq"] if config["trainer"]["save_freq"] != -1 else "after_each_epoch"
    )
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"),
        f"--nproc-per-node={config['trainer']['n_gpus_per_node']}",
        *("-m", "verl.trainer.sft_trainer"),
        *job.sft_arguments(model),
        f"trainer.save_freq={every}",
        "trainer.resume_mode=auto",
        f"trainer.default_local_dir={work.checkpoints}",
        f"hydra.run.dir={work.folder}/hydra",
    ]

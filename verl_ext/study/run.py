"""Run the cells of a study, one at a time, each in a Ray cluster of its own, so that none can see another's state."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from verl_ext.live.logs import STEP_LINES, failure
from verl_ext.live.progress import RunState, clock, watch
from verl_ext.process import run_family
from verl_ext.run.attempts import metrics_of, next_log
from verl_ext.study.collect import EXPORT, IncompleteRun, collect
from verl_ext.study.results import Result
from verl_ext.study.schema import Cell
from verl_ext.toy.assets import Assets, AssetSettings, planned, prepare_settings

INTERRUPTED = 130
LOGS = (".log", ".jsonl")


@dataclass(frozen=True)
class Places:
    """Where a study works.

    Attributes:
        out: logs, metrics and token exports of runs.
        assets: cache of the tiny models and their data.
    """

    out: Path = Path("outputs/study")
    assets: Path = Path("outputs/assets")


class RunFailed(RuntimeError):
    """A run without a result, with the lines of its log that say why."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


def run_cells(cells: Sequence[Cell], places: Places, commit: bool, again: bool, console: Console) -> int:
    """Run what has no result yet; a failing run is reported and the others are run.

    Args:
        cells: in this order.
        places: where.
        commit: commit each result when it is there.
        again: run also what has a result.
        console: for progress.

    Returns:
        0; 1 if a run failed; 130 if it was interrupted, and the same command goes on.
    """
    todo = [cell for cell in cells if again or not cell.result_file.exists()]
    console.print(f"{len(cells)} runs, {len(cells) - len(todo)} done before", highlight=False)
    failed = []
    for number, cell in enumerate(todo, start=1):
        console.rule(f"[bold]{cell.name}[/bold]  ({number} of {len(todo)})", align="left")
        try:
            result = run_cell(cell, places, console)
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on from here", soft_wrap=True)
            return INTERRUPTED
        except (RunFailed, IncompleteRun) as error:
            failed.append(cell.name)
            console.print(f"{cell.name} failed: {error}", style="bold red", markup=False, soft_wrap=True)
            for line in getattr(error, "details", []):
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            continue
        console.print(f"  {clock(result.seconds)}, accuracy {result.validation['accuracy'][-1]:.1%}", highlight=False)
        if commit:
            commit_file(cell.result_file, f"Study: {cell.name}")
    if failed:
        console.print(f"{len(failed)} failed: {', '.join(failed)}", style="bold red", soft_wrap=True)
    return 1 if failed else 0


def run_cell(cell: Cell, places: Places, console: Console) -> Result:
    """Run one cell and write its result.

    Raises:
        RunFailed: the trainer failed, or took longer than the study allows.
        IncompleteRun: it ended without what a result needs.
        ConfigError: the configuration cannot be composed.
    """
    from verl_ext.platform.cpu import cpu_env

    folder = (places.out / ("tuning" if cell.tuning else "runs") / cell.name).absolute()
    # Checked before the model is trained, which takes a minute.
    settings = AssetSettings(cell.model)  # type: ignore[arg-type]
    command, steps, problems = trainer(cell, planned(settings, places.assets), folder)
    prepare_settings(settings, places.assets)
    _clear(folder)
    log = next_log(folder)
    state = RunState(log, metrics_of(log), steps, time.monotonic())
    env = {**cpu_env(), STEP_LINES: "1", "VERL_FILE_LOGGER_PATH": str(state.metrics)}
    limit = cell.study.limit_s
    try:
        status = run_family(command, env, log, lambda process: watch(process, state, console, limit))
    except TimeoutError as error:
        raise RunFailed(f"{error}, which is what the study allows; the log: {log}") from error
    seconds = time.monotonic() - state.started
    if status != 0:
        raise RunFailed(f"exit status {status} after {clock(seconds)}; the whole log: {log}", failure(log))
    if state.step < steps:
        raise IncompleteRun(f"the trainer ended after {state.step} of {steps} steps; the log: {log}")
    result = collect(cell, folder, metrics_of(log), seconds, state.startup_seconds or 0.0, problems)
    _keep_last_export(folder / EXPORT)
    result.write(cell.result_file)
    return result


def trainer(cell: Cell, assets: Assets, folder: Path) -> tuple[list[str], int, int]:
    """The trainer's command line, its steps, and the number of validation problems.

    Raises:
        RunFailed: with everything that is wrong with the configuration.
    """
    from verl_ext.tables.training import command_line
    from verl_ext.train import check, compose

    composed = compose(
        [
            *cell.arguments(),
            f"actor_rollout_ref.model.path={assets.model_dir}",
            f"data.train_files={assets.train_parquet}",
            f"data.val_files={assets.val_parquet}",
            f"trainer.default_local_dir={folder}",
            f"trainer.experiment_name={cell.name}",
            f"hydra.run.dir={folder}/hydra",
        ]
    )
    if faults := check(composed.config, composed.preset):
        raise RunFailed("the configuration is not fit for training", [f"- {fault}" for fault in faults])
    config = composed.config
    return command_line(composed.command()), config.trainer.total_training_steps, config.data.val_max_samples


def _clear(folder: Path) -> None:
    """Nothing of an earlier attempt may be taken for this one's; its logs and metrics stay."""
    for child in folder.iterdir() if folder.exists() else ():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.suffix not in LOGS:
            child.unlink()


def _keep_last_export(export: Path) -> None:
    """The last step's tokens stay, for the viewer and replay; the others are in the curves."""
    for step in sorted(export.glob("step-*"))[:-1]:
        shutil.rmtree(step)


def commit_file(path: Path, message: str) -> None:
    """Commit one file and nothing else that may be staged."""
    git = ["git", "-C", str(path.parent)]
    subprocess.run([*git, "add", "--", path.name], check=True, capture_output=True)
    subprocess.run([*git, "commit", "-q", "-m", message, "--only", "--", path.name], check=True, capture_output=True)

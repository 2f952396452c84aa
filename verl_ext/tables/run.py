"""`verl-ext tables run`: rows one after another, each stage once, a failing row reported and the others done."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from verl_ext.live.progress import clock
from verl_ext.tables.job import Job
from verl_ext.tables.stages import STAGES, discard
from verl_ext.tables.work import StageError

INTERRUPTED = 130


def run_jobs(jobs: Sequence[Job], console: Console, force: bool = False, again: str | None = None) -> int:
    """Run jobs one at a time.

    Args:
        jobs: what to run.
        console: for progress.
        force: redo stages that were done, or begun, for other inputs.
        again: redo this stage and those after it, whatever was done.

    Returns:
        0; 1 if a job failed; 130 if the run was interrupted.
    """
    failed: list[str] = []
    for number, job in enumerate(jobs, start=1):
        console.rule(f"[bold]{job.name}[/bold]  ({number} of {len(jobs)})", align="left")
        try:
            with job.work.locked():
                run_job(job, console, force, again)
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on from here", soft_wrap=True)
            return INTERRUPTED
        except (StageError, ValueError) as error:
            failed.append(job.name)
            show_failure(job, error, console)
    if failed:
        console.print(f"{len(failed)} of {len(jobs)} failed: {', '.join(failed)}", style="bold red", soft_wrap=True)
    return 1 if failed else 0


def show_failure(job: Job, error: Exception, console: Console) -> None:
    """The message of a failed job, and the lines that say why."""
    console.print(f"{job.name} failed: {error}", style="bold red", markup=False, soft_wrap=True)
    for line in getattr(error, "details", []):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def run_job(job: Job, console: Console, force: bool = False, again: str | None = None) -> None:
    """Do the stages of a job that are not done.

    Raises:
        StageError: if a stage fails, or was done for other inputs and `force` is not set.
        ConfigError: if the configuration cannot be composed.
        KeyboardInterrupt: if it is interrupted.
    """
    if again is not None:
        if again not in job.stages:
            raise StageError(f"a row of kind {job.row.kind} has no stage {again}; it has {', '.join(job.stages)}")
        discard(job, again)
    if finished(job):
        console.print(f"  done before: {job.work.result_file}", soft_wrap=True, highlight=False)
        return
    for name in job.stages:
        _run_stage(job, name, console, force)
    console.print(f"  result: {job.work.result_file}", soft_wrap=True, highlight=False)


def finished(job: Job) -> bool:
    """Whether every stage is done for the inputs that it would have now.

    What lies behind the recorded outputs is not looked at: checkpoints and weights of a finished row may be deleted.
    """
    for name in job.stages:
        if job.work.stages().get(name, {}).get("state") != "done":
            return False
        if job.work.state(name, STAGES[name].inputs(job)) != "done":
            return False
    return job.work.result_file.exists()


def _run_stage(job: Job, name: str, console: Console, force: bool) -> None:
    stage, work = STAGES[name], job.work
    inputs = stage.inputs(job)
    state = work.state(name, inputs)
    if state == "done" and stage.intact(job):
        console.print(f"  {name:8}  done before", highlight=False)
        return
    if state == "changed" and not stage.cheap:
        changes = work.changes(name, inputs)
        if not force:
            advice = "it was begun for other settings; --force does it again, another --out keeps it. Since then:"
            raise StageError(f"stage {name}: {advice}", changes)
        console.print(f"  {name:8}  again, as {len(changes)} settings changed", highlight=False)
        discard(job, name)
    with work.timed(name, inputs) as outputs:
        stage.perform(job, outputs, console)
    console.print(f"  {name:8}  {clock(work.stages()[name]['seconds'])}", highlight=False)

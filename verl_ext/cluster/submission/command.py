"""`verl-ext submit`. Imports of a command stand inside it, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from verl_ext.cluster.submission.job import Job, Request
    from verl_ext.cluster.submission.kuberay import Pods

RENDERERS = ("slurm", "kuberay")


def submit(
    arguments: Annotated[
        list[str], typer.Argument(metavar="experiment=... [OVERRIDE]...", help="As of `verl-ext train`.")
    ],
    address: Annotated[str | None, typer.Option(help="Of Ray's job server: http://head:8265.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="A variable of this shell, or NAME=value; never shown. Repeatable."),
    ] = None,
    code: Annotated[Path, typer.Option(help="Folder whose code is sent; no data, checkpoints or outputs.")] = Path(),
    no_code: Annotated[bool, typer.Option("--no-code", help="Send nothing: the cluster has the code.")] = False,
    name: Annotated[str | None, typer.Option(help="Of the job; trainer.experiment_name by default.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Submit and return.")] = False,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Further attempts, from the last checkpoint, after failures that may pass.")
    ] = 0,
    render: Annotated[
        str | None, typer.Option(help="slurm or kuberay: print a batch script or a manifest, submit nothing.")
    ] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="slurm: a further option of sbatch, as --time=2-0. Repeatable.")
    ] = None,
    image: Annotated[str, typer.Option(help="kuberay: holds verl, vLLM and this package.")] = "verl-ext:latest",
    volume: Annotated[
        list[str] | None, typer.Option("--volume", help="kuberay: claim:/folder that every pod sees. Repeatable.")
    ] = None,
    secret: Annotated[str, typer.Option(help="kuberay: the secret that holds the variables of --env.")] = "verl-ext",
    cpus: Annotated[
        int | None, typer.Option(min=1, help="slurm, kuberay: CPUs of a node; all, or what the job needs, by default.")
    ] = None,
    memory: Annotated[str, typer.Option(help="kuberay: memory of a node.")] = "256Gi",
) -> None:
    """Run a training as a job of a Ray cluster: check, send the code, follow the log, pass the exit code on.

    Every fault of the configuration is listed before anything is sent. Ctrl-C asks whether the job is stopped or left.

    The exit status is the job's (128 + n for signal n), 1 if the configuration is at fault or the cluster cannot be
    reached, 130 if interrupted.
    """
    from rich.console import Console

    from verl_ext.cluster.submission.job import Request
    from verl_ext.cluster.submission.kuberay import Pods

    if render is not None and render not in RENDERERS:
        raise typer.BadParameter(f"'{render}' is not known; choose slurm or kuberay", param_hint="--render")
    request = Request(
        arguments, env or (), None if no_code else code, name, max_restarts, detach, target=render or "ray"
    )
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if render is None:
        raise typer.Exit(run(request, address, console))
    pods = Pods(image, volume or (), secret, cpus, memory)
    raise typer.Exit(show(request, render, pods, sbatch or (), cpus, console))


def run(request: Request, address: str | None, console: Console) -> int:
    """Prepare and submit; the exit status.

    Args:
        request: what is asked for.
        address: of Ray's job server.
        console: for everything but the job's log.
    """
    from verl_ext.cluster.submission import client
    from verl_ext.cluster.submission.supervise import Supervisor

    job = _prepared(request, console, client.address_faults(address))
    if job is None:
        return 1
    try:
        server = client.connect(str(address))
        if rivals := client.rivals(server, job.checkpoints):
            console.print(f"not submitted: {', '.join(rivals)} saves to {job.checkpoints} too; stop it, or change")
            console.print("trainer.default_local_dir")
            return 1
        supervisor = Supervisor(job, server, str(address), console)
        return supervisor.detached() if request.detach else supervisor.run()
    except ConnectionError as error:
        console.print(f"no job server answers at {address}: {error}")
        return 1


def show(
    request: Request, renderer: str, pods: Pods, options: list[str] | tuple[str, ...], cpus: int | None,
    console: Console,
) -> int:  # fmt: skip
    """Print a batch script or a manifest to the standard output; the exit status."""
    from verl_ext.cluster.submission import kuberay, slurm

    job = _prepared(request, console, slurm.written_secrets(request), here=False)
    if job is None:
        return 1
    faults = [*cpu_faults(job, cpus), *(slurm.option_faults(options) if renderer == "slurm" else pods.faults(job))]
    if faults:
        return _refuse(faults, console)
    if renderer == "slurm":
        typer.echo(slurm.render(job, request, options, cpus), nl=False)
        return 0
    if job.package is not None:
        console.print("note: a manifest sends no code; it has to be in the image")
    if job.max_restarts:
        console.print("note: KubeRay starts the job again after any failure, whatever its reason")
    typer.echo(kuberay.render(job, request, pods), nl=False)
    return 0


def cpu_faults(job: Job, cpus: int | None) -> list[str]:
    """Nodes so small that verl would wait for CPUs for ever."""
    if cpus is None or cpus >= job.cpus:
        return []
    return [f"--cpus {cpus}: a node with {job.gpus} GPUs needs {job.cpus}, or verl would wait for ever"]


def _prepared(request: Request, console: Console, faults: list[str], here: bool = True) -> Job | None:
    """The job, once its notes are told; None if something is wrong with it, which is told too.

    Args:
        request: what is asked for.
        console: for both.
        faults: what is wrong besides.
        here: the variables named with `--env` are read from this shell, and so must be set.
    """
    from verl_ext.cluster.submission.job import prepare
    from verl_ext.composing.errors import ConfigError

    try:
        prepared = prepare(request)
    except ConfigError as error:
        console.print(str(error))
        return None
    for note in prepared.notes:
        console.print(f"note: {note}")
    faults = [*faults, *prepared.faults]
    job = prepared.job
    if here and job is not None:
        faults += [f"--env {name}: not set in this shell" for name in job.environment.unset]
    if faults or job is None:
        _refuse(faults, console)
        return None
    console.print("environment: " + " ".join(job.environment.lines()))
    return job


def _refuse(faults: list[str], console: Console) -> int:
    console.print("the job cannot run:", *(f"  - {fault}" for fault in faults), sep="\n")
    return 1

"""From what a person types to a job: command, environment, code, and everything that is wrong with them."""

from __future__ import annotations

import copy
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.checks.collecting import examine
from verl_ext.cluster.preflight.wanted import wanted
from verl_ext.cluster.submission.code import Package, measure
from verl_ext.cluster.submission.environment import Environment, collect
from verl_ext.composing.compose import Composed
from verl_ext.run.name import listed
from verl_ext.train import compose
from verl_ext.train.command import platform

STARTS_A_CLUSTER = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")
"""Arguments of ``ray.init`` that Ray refuses where a cluster runs already."""

FOLDERS = {
    "ray": "the job's own folder, which Ray removes",
    "slurm": "the folder of the Ray job that the script starts, which Ray removes",
    "kuberay": "a folder in a pod, which is gone with it",
}
"""Where a relative path would lie, by what the job is made for."""

_ODD = "'\"\\$\n"
_BARE = re.compile(r"[A-Za-z0-9_./:+-]+")


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    Attributes:
        arguments: Hydra overrides, as of `verl-ext train`.
        env: see `environment.collect`.
        code: the folder to send; None for a cluster that has all the code.
        name: of the job; the experiment's by default.
        max_restarts: further attempts.
        detach: return once the job is submitted.
        entrypoint: what runs instead of verl's trainer; for tests.
        target: key of `FOLDERS`: what the job is made for.
    """

    arguments: Sequence[str]
    env: Sequence[str] = ()
    code: Path | None = None
    name: str | None = None
    max_restarts: int = 0
    detach: bool = False
    entrypoint: Sequence[str] | None = None
    target: str = "ray"


@dataclass(frozen=True)
class Job:
    """What is submitted.

    Attributes:
        name: for people; part of the id.
        command: words of the command line.
        environment: its variables.
        package: its code, if any is sent.
        checkpoints: where the trainer saves, the same in every attempt.
        steps: of the whole training; None if epochs decide.
        nodes, gpus: machines, and GPUs of each.
        cpus: that each needs at least.
        max_restarts: further attempts.
        labels: kept by Ray beside the job, with its name.
    """

    name: str
    command: tuple[str, ...]
    environment: Environment
    package: Package | None = None
    checkpoints: str | None = None
    steps: int | None = None
    nodes: int = 1
    gpus: int = 0
    cpus: int = 1
    max_restarts: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """The command as Ray's shell gets it."""
        return shlex.join(self.command)

    def runtime_env(self) -> dict[str, Any]:
        """What Ray prepares for the job and all its workers."""
        code = (
            {"working_dir": str(self.package.folder), "excludes": list(self.package.excludes)} if self.package else {}
        )
        return {**code, "env_vars": self.environment.variables}

    def metadata(self) -> dict[str, str]:
        """What Ray keeps beside the job."""
        return {"name": self.name, **({"checkpoints": self.checkpoints} if self.checkpoints else {}), **self.labels}


@dataclass(frozen=True)
class Prepared:
    """A job with what is wrong with it and what a person should know; None for a job that cannot even be composed."""

    job: Job | None
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(request: Request, shell: Mapping[str, str] | None = None) -> Prepared:
    """Compose, check and count; needs neither a cluster nor a GPU.

    Args:
        request: what is asked for.
        shell: the environment of whoever submits; this process's by default.

    Raises:
        ConfigError: if the arguments do not compose.
    """
    shell = os.environ if shell is None else shell
    named = collect(shell, request.env)
    with _variables({**named.open, **named.named}):
        composed = compose(request.arguments)
        findings = examine(composed.config, composed.preset)
        if findings.faults:
            return Prepared(None, [*named.faults, *findings.faults], findings.notes)
        config = copy.deepcopy(composed.config)
        OmegaConf.resolve(config)
    environment = collect(shell, request.env, _platform(composed))
    package, absent = _package(request, config)
    need, gpus = wanted(config), config.trainer.n_gpus_per_node
    job = Job(
        name=request.name or str(config.trainer.experiment_name),
        command=tuple(request.entrypoint or command_of(composed, config)),
        environment=environment,
        package=package,
        checkpoints=str(config.trainer.default_local_dir),
        steps=config.trainer.total_training_steps,
        # Rollouts, reward models and teachers may have nodes of their own.
        nodes=max(need.nodes, math.ceil(need.gpus / gpus)),
        gpus=gpus,
        cpus=need.cpus_a_node(gpus),
        max_restarts=request.max_restarts,
    )
    faults = [*environment.faults, *absent, *(package.faults() if package else [])]
    faults += [*path_faults(config, request.target), *restart_faults(request, config), *composed.folder_faults()]
    return Prepared(job, faults, [*findings.notes, *notes(request, config, package)])


def command_of(composed: Composed, config: DictConfig) -> list[str]:
    """verl's trainer, by the cluster's interpreter."""
    own = composed.command()
    kept = [override for override in fixed(config) if override not in own]
    if named_folder(composed.config):
        # Written out it would hide from the driver that an earlier attempt was kept under another name.
        kept = [override for override in kept if not override.startswith("trainer.default_local_dir=")]
    return ["python", *own, *kept]


def named_folder(config: DictConfig) -> bool:
    """Whether the folder of checkpoints depends on the run's names alone, which are the same in every attempt.

    Example:
        >>> named_folder(OmegaConf.create({"trainer": {"default_local_dir": "/runs/${trainer.experiment_name}"}}))
        True
        >>> named_folder(OmegaConf.create({"trainer": {"default_local_dir": "/runs/${oc.env:USER}"}}))
        False
    """
    raw: Any = OmegaConf.to_container(config.trainer, resolve=False)
    found = set(re.findall(r"\$\{(.*?)\}", raw["default_local_dir"]))
    return bool(found) and found <= {"trainer.project_name", "trainer.experiment_name"}


def _platform(composed: Composed) -> dict[str, str]:
    found = platform(composed)
    if composed.config.trainer.nnodes > 1:
        # Loopback is right for one machine only.
        found.pop("GLOO_SOCKET_IFNAME", None)
    return found


def _package(request: Request, config: DictConfig) -> tuple[Package | None, list[str]]:
    if request.code is None:
        return None, []
    data = [str(file) for key in ("train_files", "val_files") for file in listed(config.data.get(key))]
    try:
        return measure(request.code, [str(config.trainer.default_local_dir), *data]), []
    except NotADirectoryError as error:
        return None, [str(error)]


def fixed(config: DictConfig) -> list[str]:
    """Overrides that hold in every attempt, and those that let the trainer join a cluster that runs already.

    Example:
        >>> config = {"trainer": {"default_local_dir": "/shared/a b"}, "ray_kwargs": {"ray_init": {"num_cpus": 24}}}
        >>> fixed(OmegaConf.create(config))
        ["trainer.default_local_dir='/shared/a b'", 'ray_kwargs.ray_init.num_cpus=null']
    """
    start = config.ray_kwargs.get("ray_init") or {}
    resets = [f"ray_kwargs.ray_init.{key}=null" for key in STARTS_A_CLUSTER if start.get(key) is not None]
    return [f"trainer.default_local_dir={quoted(str(config.trainer.default_local_dir))}", *resets]


def quoted(text: str) -> str:
    """A text without quotes, backslashes and dollars, as a value on Hydra's command line."""
    return text if _BARE.fullmatch(text) else f"'{text}'"


def path_faults(config: DictConfig, target: str = "ray") -> list[str]:
    """Paths that would be looked for in a folder that is made for the job and removed after it."""
    found = []
    if odd := sorted(set(str(config.trainer.default_local_dir)) & set(_ODD)):
        found.append(
            f"trainer.default_local_dir={config.trainer.default_local_dir}: choose a path without {''.join(odd)}"
        )
    if not str(folder := config.trainer.default_local_dir).startswith("/"):
        found.append(
            f"trainer.default_local_dir={folder}: relative to {FOLDERS[target]}; "
            "give an absolute folder that every node sees"
        )
    for key in ("train_files", "val_files"):
        files = [str(file) for file in listed(config.data.get(key))]
        if relative := [file for file in files if not file.startswith(("/", "~")) and "://" not in file]:
            found.append(
                f"data.{key}={','.join(relative)}: no data are sent; give absolute paths that every node sees, "
                "for instance with --env VERL_EXT_DATA=/folder"
            )
    model = str(config.actor_rollout_ref.model.path)
    # `name/name` may be a model of the hub as well as a folder.
    if model.startswith((".", "outputs/")) or (not model.startswith(("/", "~")) and Path(model).is_dir()):
        found.append(f"actor_rollout_ref.model.path={model}: no models are sent; give an absolute path or a hub's name")
    return found


def restart_faults(request: Request, config: DictConfig) -> list[str]:
    """What `--max-restarts` and `--detach` cannot keep."""
    found = []
    if request.max_restarts < 0:
        found.append(f"--max-restarts {request.max_restarts}: a number of further attempts is 0 or more")
    if request.max_restarts > 0 and request.detach:
        found.append("--detach with --max-restarts: who has left cannot restart; give one of them")
    if request.max_restarts > 0 and (mode := config.trainer.resume_mode) != "auto":
        found.append(
            f"trainer.resume_mode={mode} with --max-restarts: a further attempt resumes from the last checkpoint in "
            "trainer.default_local_dir, which is resume_mode=auto; for a fresh start give a folder of its own"
        )
    return found


def notes(request: Request, config: DictConfig, package: Package | None) -> list[str]:
    """What a person should know."""
    found = package.notes() if package else []
    if "console" not in listed(config.trainer.logger):
        found.append("trainer.logger has no console: the log shows no steps, and neither does the progress line")
    if request.max_restarts > 0 and config.trainer.save_freq < 1:
        found.append(f"trainer.save_freq={config.trainer.save_freq}: nothing is saved, a restart begins at step 0")
    return found


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """`values` in this process's environment: configurations read variables (``${oc.env:VERL_EXT_DATA}``)."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""The demo from end to end: assets, trainer, live line, report."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from verl_ext.live.ending import INTERRUPTED, explain, show_tables
from verl_ext.live.logs import STEP_LINES
from verl_ext.live.progress import RunState, clock, watch
from verl_ext.process import run_family
from verl_ext.run.attempts import metrics_of, next_log, number_of
from verl_ext.run_report.history import History

if TYPE_CHECKING:
    from verl_ext.toy.assets import Assets
    from verl_ext.toy.models import ModelKind

MODELS = ("tiny_dense", "tiny_moe")


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        algo: a file of configs/algo.
        model: one of `MODELS`.
        steps: training steps; None for the demo's own number.
        seed: seed of rollouts and data order.
        out: folder of this run; None for one named after the other options.
        assets: the cache of models and data.
        control: train on rewards that know nothing of correctness.
        overrides: further Hydra overrides, after the demo's own.
    """

    algo: str = "espo"
    model: str = "tiny_dense"
    steps: int | None = None
    seed: int = 1
    out: Path | None = None
    assets: Path = Path("outputs/assets")
    control: bool = False
    overrides: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """What is wrong with the options, all of it."""
        known = algorithms()
        faults = []
        if self.algo not in known:
            faults.append(f"algo={self.algo} is not known; choose one of {', '.join(known)}")
        if self.model not in MODELS:
            faults.append(f"model={self.model} is not known; choose one of {', '.join(MODELS)}")
        if self.steps is not None and self.steps < 1:
            faults.append(f"steps={self.steps} must be at least 1")
        return faults

    def folder(self) -> Path:
        name = f"{self.algo}-{self.model}-seed{self.seed}{'-control' if self.control else ''}"
        return (self.out or Path("outputs/demo") / name).absolute()


def algorithms() -> list[str]:
    """Names that ``algo`` may have."""
    from verl_ext.config_groups import config_dir

    return sorted(file.stem for file in (config_dir() / "algo").glob("*.yaml"))


def run_demo(options: Options, console: Console | None = None) -> int:
    """Run the demo; return the exit status: 0, 1 for a failure, 130 when it was interrupted."""
    console = console or Console()
    faults = options.faults()
    if faults:
        console.print("The demo cannot start:", *(f"  - {fault}" for fault in faults), sep="\n", markup=False)
        return 1
    out = options.folder()
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    assets = _prepare(options, console)
    assets_seconds = time.monotonic() - begun
    return _train_and_report(options, assets, assets_seconds, out, console)


def _prepare(options: Options, console: Console) -> Assets:
    from verl_ext.toy.assets import prepare

    model: ModelKind = options.model  # type: ignore[assignment]
    with console.status("model and data ...") as status:

        def progress(step: int, steps: int, loss: float) -> None:
            status.update(f"pre-training {options.model}: step {step}/{steps}, loss {loss:.3f}")

        begun = time.monotonic()
        assets = prepare(model, options.assets, seed=0, progress=progress)
    console.print(f"model and data: {clock(time.monotonic() - begun)}  ({assets.model_dir.parent})", soft_wrap=True)
    return assets


def command_line(options: Options, assets: Assets, steps: int, place: Path) -> list[str]:
    """The trainer's command: verl's own entry point and nothing else."""
    from verl_ext.demo.command import overrides

    arguments = overrides(assets, options.algo, steps, options.seed, options.control, str(place), options.overrides)
    return [sys.executable, "-m", "verl.trainer.main_ppo", *arguments]


def _train_and_report(options: Options, assets: Assets, assets_seconds: float, out: Path, console: Console) -> int:
    from verl_ext.demo import next_steps
    from verl_ext.demo.command import CHECKPOINTS, OWN_ALPHA, STEPS, has_own_alpha
    from verl_ext.demo.report import Run, write

    log = next_log(out)
    place = out / f"attempt-{number_of(log)}"  # what an earlier run saved must not be taken up or overwritten
    command = command_line(options, assets, options.steps or STEPS, place)
    own = f", alpha {OWN_ALPHA} (the demo's own)" if has_own_alpha(options.algo, options.overrides) else ""
    console.print(f"{options.algo} on {options.model}{own}; full log: {log}", soft_wrap=True)
    state = RunState(log, metrics_of(log), options.steps or STEPS, time.monotonic())
    status = train(command, state, console)
    seconds = time.monotonic() - state.started
    if status != 0:
        explain(status, log, console)
        return status if status == INTERRUPTED else 1
    steps = state.total or 0
    run = Run(
        algo=options.algo,
        model=options.model,
        seed=options.seed,
        steps=steps,
        problems=count_rows(assets.val_parquet),
        command=tuple(command),
        startup_seconds=state.startup_seconds,
        total_seconds=seconds,
        assets_seconds=assets_seconds,
        control=options.control,
    )
    summary = write(History(state.records), run, out)
    show(summary, out, console)
    next_steps.show(next_steps.commands(options.algo, assets, place / CHECKPOINTS, state.metrics), console)
    if summary["trained_steps"] < steps:
        console.print(f"The trainer ended without an error after {summary['trained_steps']} of {steps} steps.")
        return 1
    return 0


def train(command: list[str], state: RunState, console: Console) -> int:
    """Run the trainer to its end under a live line; its exit status, 130 when interrupted.

    Whatever happens, no process of the run is left behind.
    """
    from verl_ext.platform.cpu import cpu_env

    env = {**cpu_env(), STEP_LINES: "1", "VERL_FILE_LOGGER_PATH": str(state.metrics)}
    try:
        return run_family(
            command, env, state.log, lambda process: watch(process, state, console),
            lambda: console.print("interrupted; ending the trainer and Ray ..."),
        )  # fmt: skip
    except KeyboardInterrupt:
        return INTERRUPTED


def count_rows(parquet: Path) -> int:
    """Number of rows of a parquet file, from its footer."""
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(parquet).num_rows


def show(summary: dict[str, Any], out: Path, console: Console) -> None:
    """Print a summary's tables and where the report lies."""
    from verl_ext.demo.report import PAGE, PICTURE, SUMMARY, tables

    show_tables(tables(summary), console)
    for fault in summary["missing"]:
        console.print(f"not reported: {fault}", markup=False)
    for name in (PICTURE, PAGE, SUMMARY):
        console.print(str(out / name), soft_wrap=True, markup=False)

"""Training a row: verl's own entry point in a child process, resumed from its last checkpoint."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from rich.console import Console

from verl_ext.live.logs import STEP_LINES, failure
from verl_ext.live.progress import RunState, watch
from verl_ext.process import mapped_segments, run_family
from verl_ext.run.attempts import metrics_of, next_log
from verl_ext.tables.work import StageError, Work

MARK = "VERL_EXT_WORK_FOLDER"
"""Environment variable of a training run and of everything it starts: how a killed run's leftovers are known."""

_TRACKER = "latest_checkpointed_iteration.txt"


def saved_steps(checkpoints: Path) -> list[int]:
    """Steps whose checkpoint is whole, in order: verl writes data.pt after the weights of all ranks."""
    found = (re.fullmatch(r"global_step_(\d+)", folder.name) for folder in checkpoints.glob("global_step_*"))
    steps = sorted(int(match[1]) for match in found if match)
    return [step for step in steps if _whole(checkpoints / f"global_step_{step}")]


def _whole(folder: Path) -> bool:
    return (folder / "data.pt").exists() and any((folder / "actor").glob("*"))


def last_step(checkpoints: Path) -> int:
    """The step that training would resume from; 0 for none.

    verl's tracker file says it. It is emptied for a moment while it is written: a run killed just then left one
    that verl cannot read, and it is written again here.
    """
    tracker = checkpoints / _TRACKER
    if not tracker.exists():
        return 0
    text = tracker.read_text().strip()
    if not text.isdigit():
        text = str(max(saved_steps(checkpoints), default=0))
        tracker.write_text(text) if text != "0" else tracker.unlink()
    return int(text)


def train(command: Sequence[str], work: Work, total: int | None, env: Mapping[str, str], console: Console) -> None:
    """Run the trainer to its end under a live line; whatever happens, no process of it is left behind.

    Args:
        command: the whole command line.
        work: the work folder; logs and metrics of each attempt are kept.
        total: steps of the whole run; None if epochs decide.
        env: on top of this process's environment.
        console: for the live line.

    Raises:
        StageError: if the trainer fails, with what its log says.
        KeyboardInterrupt: on SIGINT, SIGTERM and SIGHUP, after the trainer and Ray have ended.
    """
    log = next_log(work.logs)
    metrics = metrics_of(log)
    marked = {MARK: str(work.folder), STEP_LINES: "1", "VERL_FILE_LOGGER_PATH": str(metrics)}
    state = RunState(log, metrics, total, time.monotonic())
    status = run_family(command, {**env, **marked}, log, lambda process: watch(process, state, console))
    if status != 0:
        raise StageError(f"the trainer failed (exit status {status}); the whole log: {log}", failure(log))


def leftovers(work: Work) -> list[psutil.Process]:
    """Processes of an earlier run in this folder that outlived it: it was killed, and could not end them."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.pid != os.getpid() and process.environ().get(MARK) == str(work.folder)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if marked:
            found.append(process)
    return found


def end_leftovers(work: Work, console: Console, patience: float = 10.0) -> int:
    """End what `leftovers` finds, and remove the shared memory it had mapped; return how many there were.

    Left alone, an orphaned trainer would go on writing checkpoints into the folder that is resumed from.
    """
    found = leftovers(work)
    if not found:
        return 0
    console.print(f"ending {len(found)} processes that an earlier, killed run left behind", soft_wrap=True)
    segments = mapped_segments(process.pid for process in found)
    for process in found:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(found, timeout=patience)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=patience)
    for path in segments - mapped_segments(psutil.pids()):
        Path(path).unlink(missing_ok=True)
    return len(found)


def _quietly(action) -> None:  # type: ignore[no-untyped-def]
    try:
        action()
    except psutil.NoSuchProcess:
        return


def command_line(arguments: Sequence[str]) -> list[str]:
    """This interpreter with arguments."""
    return [sys.executable, *arguments]

"""Start verl's stock trainer as a user does, watch it, and leave nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.process import ProcessFamily
from verl_ext.run_report.history import History

HERE = Path(__file__).resolve().parent
LIMIT_S = 600


@dataclass
class Run:
    """A finished trainer run."""

    folder: Path
    returncode: int
    ended: float

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text(errors="replace")

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Metrics of the training steps, in order."""
        return [record.values for record in History.read(self.folder / "metrics.jsonl").steps()]

    @property
    def executions(self) -> list[dict[str, Any]]:
        """What each worker said it ran."""
        return [json.loads(found) for found in re.findall(r"verl_ext\.execution (\{.*\})", self.log)]

    def records(self) -> list[dict[str, Any]]:
        import torch

        files = sorted((self.folder / "record").glob("call-*.pt"))
        return [torch.load(file, weights_only=False) for file in files]

    def step(self, number: int) -> list[dict[str, Any]]:
        """The loss's calls of one training step, counted from 0: its rows come in the order of their updates."""
        found, rows = [], 0
        for record in self.records():
            if number * ROWS <= rows < (number + 1) * ROWS:
                found.append(record)
            rows += len(record["responses"])
        assert rows >= (number + 1) * ROWS, f"only {rows} rows were recorded"
        return found

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.splitlines()[-lines:])


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """A trainer run fills both cores of a small machine: wait until no other one is running."""
    with open(Path(tempfile.gettempdir()) / "verl_ext-e2e.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


ROWS = 32  # of a training step below: 8 prompts, 4 responses each
MINI_BATCH = 16


def overrides(model: Path, data: Path, steps: int, algo: str | None = "espo") -> list[str]:
    """A run of a few steps with two mini-batches a rollout and dynamic batching; None for a method spelt out."""
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    return [
        "+backend=cpu",
        *([f"+algo={algo}"] if algo else []),
        f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/validation.parquet",
        "data.train_batch_size=8",
        "data.max_prompt_length=48",
        "data.max_response_length=24",
        f"actor_rollout_ref.model.path={model}",
        f"{rollout}.n=4",
        f"{rollout}.max_model_len=80",
        f"{rollout}.max_num_seqs=64",
        f"{rollout}.log_prob_use_dynamic_bsz=true",
        f"{rollout}.log_prob_max_token_len_per_gpu=400",
        f"{actor}.ppo_mini_batch_size=4",
        f"{actor}.use_dynamic_bsz=true",
        f"{actor}.ppo_max_token_len_per_gpu=200",
        f"{actor}.optim.lr=1e-3",
        f"reward.custom_reward_function.path={HERE}/reward.py",
        "reward.custom_reward_function.name=compute_score",
        "trainer.logger=[file]",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.total_epochs=100",
        f"trainer.total_training_steps={steps}",
    ]


def run(folder: Path, arguments: list[str], env: dict[str, str] | None = None, limit_s: float = LIMIT_S) -> Run:
    """Run ``python -m verl.trainer.main_ppo`` to its end; whatever it started has ended when this returns."""
    (found,) = run_together([(folder, arguments)], env, limit_s)
    return found


def run_together(
    jobs: list[tuple[Path, list[str]]], env: dict[str, str] | None = None, limit_s: float = LIMIT_S
) -> list[Run]:
    """Several runs side by side on this machine, each with a folder and arguments of its own."""
    with one_at_a_time(), contextlib.ExitStack() as stack:
        processes = []
        for folder, arguments in jobs:
            (folder / "record").mkdir(parents=True)
            command = [sys.executable, "-m", "verl.trainer.main_ppo", *arguments, *places(folder, arguments)]
            process = ProcessFamily(command, environment(folder, env or {}), folder / "train.log")
            stack.callback(process.end)
            processes.append(process)
        ended = _wait(processes, limit_s)
    return [
        Run(folder, status_of(process), end) for (folder, _), process, end in zip(jobs, processes, ended, strict=True)
    ]


def places(folder: Path, arguments: list[str]) -> list[str]:
    """Where a run writes: nothing into the folder that the tests are started in."""
    given = any(argument.startswith("trainer.default_local_dir=") for argument in arguments)
    return [f"hydra.run.dir={folder}/hydra", *([] if given else [f"trainer.default_local_dir={folder}/checkpoints"])]


def environment(folder: Path, extra: dict[str, str]) -> dict[str, str]:
    """A run's environment: the recorder of what the losses see, and where metrics go."""
    return {
        **os.environ,
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "VERL_USE_EXTERNAL_MODULES": "recorder",
        "VERL_EXT_RECORD": str(folder / "record"),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        **extra,
    }


def status_of(process: ProcessFamily) -> int:
    """Exit status of a process that has ended."""
    status = process.poll()
    assert status is not None
    return status


def _wait(processes: list[ProcessFamily], limit_s: float) -> list[float]:
    """When each process ended; TimeoutError when one runs longer than allowed."""
    deadline = time.time() + limit_s
    ended: dict[int, float] = {}
    while len(ended) < len(processes):
        if time.time() > deadline:
            raise TimeoutError(f"the trainer was still running after {limit_s:.0f} s")
        for number, process in enumerate(processes):
            if number not in ended and process.poll() is not None:
                ended[number] = time.time()
            else:
                process.note_family()
        time.sleep(0.5)
    return [ended[number] for number in range(len(processes))]

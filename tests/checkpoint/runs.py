"""Trainer runs for the tests of resuming: with rollouts kept or put back, ended by themselves or killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e import trainer
from verl_ext.process import ProcessFamily
from verl_ext.run_report.history import History

EXTERNAL = Path(__file__).resolve().parent / "external"
ROWS, STEPS_PER_EPOCH = 20, 2  # eight rows a step, four left over in each epoch


def write_data(folder: Path, rows: int = ROWS) -> Path:
    """Problems of the demo task, as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from verl_ext.toy import task

    folder.mkdir(parents=True)
    for split, count in (("train", rows), ("validation", 8)):
        made = [task.row(problem, index) for index, problem in enumerate(task.problems(split, count, seed=0))]
        pq.write_table(pa.Table.from_pylist(made), folder / f"{split}.parquet")
    return folder


def overrides(model: Path, data: Path, checkpoints: Path, steps: int, save_every: int, *more: str) -> list[str]:
    """A run whose learning rate, KL coefficient and data order all depend on the step."""
    return [
        *trainer.overrides(model, data, steps=steps),
        f"trainer.default_local_dir={checkpoints}",
        f"trainer.save_freq={save_every}",
        "actor_rollout_ref.actor.optim.lr_scheduler_type=cosine",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=3",
        "actor_rollout_ref.actor.optim.lr=1e-4",
        "algorithm.use_kl_in_reward=true",
        "algorithm.kl_ctrl.type=adaptive",
        "algorithm.kl_ctrl.horizon=100",
        "reward.custom_reward_function.name=always_judged",
        *more,
    ]


def environment(folder: Path, kept: Path) -> dict[str, str]:
    """For `replay_rollouts` in every process; rollouts are kept in, or taken from, the folder `kept`."""
    (folder / "prompts").mkdir(parents=True)
    kept.mkdir(parents=True, exist_ok=True)
    return {
        "VERL_USE_EXTERNAL_MODULES": "replay_rollouts",
        "VERL_EXT_KEPT_ROLLOUTS": str(kept),
        "VERL_EXT_PROMPTS": str(folder / "prompts"),
        "PYTHONPATH": os.pathsep.join([str(EXTERNAL), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }


def to_the_end(folder: Path, arguments: list[str], kept: Path) -> trainer.Run:
    """Run until the trainer ends."""
    return trainer.run(folder / "run", arguments, env=environment(folder, kept))


def until_killed(folder: Path, arguments: list[str], kept: Path, when: Callable[[Path], bool]) -> Path:
    """Run until `when(metrics file)`, then SIGKILL to every process of it at once; the file with its output."""
    env = {**os.environ, **environment(folder, kept), "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl")}
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *arguments, f"hydra.run.dir={folder}/hydra"]
    log = folder / "train.log"
    with trainer.one_at_a_time():
        process = ProcessFamily(command, env, log)
        deadline = time.time() + trainer.LIMIT_S
        try:
            while not when(folder / "metrics.jsonl"):
                assert process.poll() is None, f"the run ended by itself:\n{log.read_text()[-3000:]}"
                assert time.time() < deadline, f"still not there:\n{log.read_text()[-3000:]}"
                process.note_family()
                time.sleep(0.1)
            process.note_family()
            killed = process._signal(signal.SIGKILL)
            assert killed > 5, f"a trainer has more than {killed} processes"
        finally:
            process.end()
    return log


def steps_logged(metrics: Path) -> int:
    """The last training step of which metrics are on disk."""
    return max((record.step for record in History.read(metrics).records), default=0)


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of one step that do not depend on the clock or on the machine's state."""
    clocked = ("timing", "perf/", "memory", "throughput", "mfu", "time", "seconds")
    return {name: value for name, value in metrics.items() if not any(word in name for word in clocked)}


K = 3  # in the middle of the second epoch; steps 4 to 6 cross into the third


class Family:
    """The straight run, the killed one and the one that continues it, with the same rollouts."""

    def __init__(self, folder: Path, *more: str) -> None:
        from verl_ext.toy.models import build_untrained

        self.folder = folder
        self.model = build_untrained("tiny_dense", True, folder / "model", seed=0)
        self.data = write_data(folder / "data")
        self.kept, self.more = folder / "rollouts", more
        self.straight = to_the_end(folder / "straight", self.arguments("straight"), self.kept)
        assert self.straight.returncode == 0, self.straight.tail()
        until_killed(folder / "killed", self.arguments("resumed"), self.kept, self.past_k)
        self.resumed = to_the_end(folder / "resumed", self.arguments("resumed"), self.kept)

    def arguments(self, name: str, *more: str) -> list[str]:
        """Overrides of a run that saves in the folder `checkpoints-NAME`."""
        checkpoints = self.folder / f"checkpoints-{name}"
        return overrides(self.model, self.data, checkpoints, 2 * K, K, *self.more, *more)

    @staticmethod
    def past_k(metrics: Path) -> bool:
        """The k-th step is saved and logged: the next one has begun."""
        return steps_logged(metrics) >= K

    def checkpoint(self, name: str, step: int = 2 * K) -> Path:
        """One of a run's."""
        return self.folder / f"checkpoints-{name}" / f"global_step_{step}"

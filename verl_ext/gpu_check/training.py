"""verl's whole trainer on one GPU, with the demo's tiny model: weights by CUDA IPC, and a short training run.

The demo's configuration with the back end for GPUs in the place of that for CPUs.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from verl_ext.gpu_check.outcome import CheckError, demand
from verl_ext.process import ProcessFamily, run_family
from verl_ext.run_report.history import History

SOURCE = "+algorithm.verl_ext.entropy_source=rollout"
# bfloat16 in both engines; untouched by a sync that works, and exceeded many times over by weights of another step.
LIMITS = {"training/rollout_log_probs_diff_mean": 0.05, "training/rollout_entropy_diff_mean": 0.05}
LARGE = 3000


def weight_sync(device: str) -> dict[str, Any]:
    """Three steps at a learning rate that moves every weight: from the second on the rollout has synced weights."""
    steps = run(3, ["actor_rollout_ref.actor.optim.lr=1e-3"])
    demand(len(steps) == 3, f"{len(steps)} steps of 3 were made")
    figures = {}
    for name, limit in LIMITS.items():
        found = [step[name] for step in steps]
        figures[name] = found
        demand(max(found[1:]) <= max(limit, 3 * found[0]), f"{name} by step is {found}: vLLM has other weights")
    figures["grad_norm"] = [step["actor/grad_norm"] for step in steps]
    demand(min(figures["grad_norm"]) > 0, f"the actor did not move: {figures['grad_norm']}")
    return figures


def training(device: str) -> dict[str, Any]:
    """Twenty steps."""
    steps = run(20, [SOURCE])
    demand(len(steps) == 20, f"{len(steps)} steps of 20 were made")
    names = ("actor/pg_loss", "actor/grad_norm", "critic/rewards/mean", "actor/espo/group1/entropy")
    series = {name: [step[name] for step in steps if name in step] for name in names}
    for name, values in series.items():
        demand(len(values) == 20, f"{name} is there in {len(values)} steps of 20")
        demand(all(map(math.isfinite, values)), f"{name} is not finite: {values}")
    seconds = [step["timing_s/step"] for step in steps]
    return {
        "reward_first_5": sum(series["critic/rewards/mean"][:5]) / 5,
        "reward_last_5": sum(series["critic/rewards/mean"][-5:]) / 5,
        "median_seconds_a_step": sorted(seconds)[len(seconds) // 2],
    }


def arguments(assets: Any, steps: int, out: Path) -> list[str]:
    """The demo's overrides, on one GPU."""
    from verl_ext.demo.command import overrides

    kept = [each for each in overrides(assets, "espo", steps, out=str(out)) if not each.startswith("+backend=")]
    return [
        "+backend=fsdp",
        *kept,
        "trainer.nnodes=1",
        "trainer.n_gpus_per_node=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "verl_ext.export.every=0",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.3",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        "reward.num_workers=1",
        "data.dataloader_num_workers=0",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    ]


def run(steps: int, further: list[str]) -> list[dict[str, Any]]:
    """Train, and return the metrics of each step.

    Raises:
        CheckError: the trainer failed, or ran another loss than the configured one; with the end of its log.
    """
    from verl_ext.toy.assets import prepare

    with tempfile.TemporaryDirectory(prefix="verl-ext-") as name:
        folder = Path(name)
        command = [
            sys.executable, "-m", "verl.trainer.main_ppo",
            *arguments(prepare("tiny_dense", folder / "assets"), steps, folder), *further,
        ]  # fmt: skip
        log, metrics = folder / "train.log", folder / "metrics.jsonl"
        status = run_family(command, {"VERL_FILE_LOGGER_PATH": str(metrics)}, log, to_the_end)
        text = log.read_text(encoding="utf-8", errors="replace")
        if status:
            raise CheckError(f"the trainer ended with status {status}: {text[-LARGE:]}")
        ran = re.findall(r'verl_ext\.execution .*"loss": "(\w+)"', text)
        demand(set(ran) == {"espo"}, f"the workers say that they ran {sorted(set(ran))}, not espo")
        return [record.values for record in History.read(metrics).steps()]


def to_the_end(process: ProcessFamily) -> int:
    """Wait for the trainer."""
    return process.follow(lambda: None)

"""`python -m benchmarks.bypass`: what a training step saves when the actor's pass before the update is left out.

Runs verl's stock entry point with ESPO four times, A B B A: A as ever, B in bypass mode, where old log-probs and old
entropies come from the rollout. The model is large enough for the forward pass to matter and small enough for a CPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import warn_if_busy
from verl_ext.process import ProcessFamily, child_environment, stop_signals_raise

PHASES = ("gen", "old_log_prob", "copy_rollout_log_probs", "adv", "update_actor", "update_weights", "step")
BYPASS = "algorithm.rollout_correction.bypass_mode=true"
PROMPTS, SAMPLES = 16, 4

console = Console()


def main(
    hidden: Annotated[int, typer.Option(help="hidden size of the model")] = 512,
    layers: Annotated[int, typer.Option(help="its layers")] = 8,
    tokens: Annotated[int, typer.Option(help="longest response")] = 128,
    steps: Annotated[int, typer.Option(help="training steps of a run; the first is not counted")] = 4,
) -> None:
    """Print the seconds of each phase of a step, with and without the actor's pass."""
    warn_if_busy()
    found: dict[str, list[dict[str, float]]] = {"actor": [], "bypass": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = prepare(folder, hidden, layers)
        for number, kind in enumerate(("actor", "bypass", "bypass", "actor")):
            extra = [BYPASS] if kind == "bypass" else []
            with console.status(f"run {number + 1} of 4: {kind}"):
                found[kind] += train(folder, f"{number}-{kind}", [*overrides(folder, tokens, steps), *extra])[1:]
    console.print(table(found, f"{parameters / 1e6:.0f}M parameters, {PROMPTS} x {SAMPLES} responses, median seconds"))
    step = {kind: statistics.median(row["step"] for row in rows) for kind, rows in found.items()}
    share = statistics.median(row["old_log_prob"] / row["step"] for row in found["actor"])
    console.print(f"the actor's pass takes {share:.1%} of a step; a step in bypass mode takes", end=" ")
    console.print(f"{step['bypass'] / step['actor']:.3f} of the time")


def table(found: dict[str, list[dict[str, float]]], title: str) -> Table:
    shown = Table("phase", *found, title=title)
    for phase in PHASES:
        values = [[row[phase] for row in rows if phase in row] for rows in found.values()]
        shown.add_row(phase, *(f"{statistics.median(one):.2f}" if one else "-" for one in values))
    return shown


def prepare(folder: Path, hidden: int, layers: int) -> int:
    """A model with random weights and the demo's problems; the number of its parameters."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from verl_ext.toy import task
    from verl_ext.toy.models import build_tokenizer

    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        intermediate_size=3 * hidden,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for split, count in (("train", 256), ("validation", 16)):
        rows = [task.row(problem, index) for index, problem in enumerate(task.problems(split, count, seed=0))]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return model.num_parameters()


def overrides(folder: Path, tokens: int, steps: int) -> list[str]:
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    return [
        "+backend=cpu",
        "+algo=espo",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/validation.parquet",
        f"data.train_batch_size={PROMPTS}",
        "data.max_prompt_length=48",
        f"data.max_response_length={tokens}",
        f"actor_rollout_ref.model.path={folder}/model",
        f"{rollout}.n={SAMPLES}",
        f"{rollout}.max_model_len={48 + tokens}",
        f"{rollout}.ignore_eos=true",
        f"{rollout}.log_prob_use_dynamic_bsz=true",
        f"{rollout}.log_prob_max_token_len_per_gpu=4096",
        f"{actor}.ppo_mini_batch_size={PROMPTS}",
        f"{actor}.use_dynamic_bsz=true",
        f"{actor}.ppo_max_token_len_per_gpu=4096",
        f"{actor}.optim.lr=1e-6",
        "reward.custom_reward_function.path=pkg://verl_ext.rewards.math",
        "reward.custom_reward_function.name=compute_score",
        "trainer.logger=[file]",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        f"trainer.total_training_steps={steps}",
    ]


def train(folder: Path, name: str, arguments: list[str]) -> list[dict[str, float]]:
    """One run of the trainer; seconds of each phase, one entry a step."""
    from verl_ext.platform.cpu import cpu_env

    metrics, log = folder / f"{name}.jsonl", folder / f"{name}.log"
    environment = child_environment({**cpu_env(), "VERL_FILE_LOGGER_PATH": str(metrics)})
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *arguments, f"hydra.run.dir={folder}/{name}"]
    with stop_signals_raise():
        process = ProcessFamily(command, environment, log)
        try:
            while process.poll() is None:
                process.note_family()
                time.sleep(1)
        finally:
            status = process.poll()
            process.end()
    if status != 0:
        raise RuntimeError("the trainer failed:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]))
    steps = [json.loads(line)["data"] for line in metrics.read_text().splitlines()]
    prefix = "timing_s/"
    return [
        {key.removeprefix(prefix): value for key, value in step.items() if key.startswith(prefix)}
        for step in steps
        if f"{prefix}step" in step
    ]


if __name__ == "__main__":
    typer.run(main)

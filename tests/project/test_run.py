"""A new project on this machine: trained for two steps, exported, loaded by transformers, vLLM and `verl-ext eval`."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.trainer import one_at_a_time
from tests.export import made
from verl_ext.process import ProcessFamily
from verl_ext.project import examples, writing
from verl_ext.project.command import CPU_COMMAND
from verl_ext.toy.models import build_untrained

LIMIT_S = 600
RUN = "outputs/grpo-tiny_dense-data-train-seed42"
PROGRAM = "import os, sys; os.chdir(sys.argv.pop(1)); from verl_ext.cli import app; app()"


def run(folder: Path, *arguments: str) -> str:
    """A command of ours in a project's folder, and its output; whatever it started has ended when this returns."""
    log = folder / "command.log"
    process = ProcessFamily([sys.executable, "-c", PROGRAM, str(folder), *arguments], dict(os.environ), log)
    deadline = time.monotonic() + LIMIT_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            process.note_family()
            time.sleep(0.5)
        status = process.poll()
    finally:
        process.end()
    printed = log.read_text(encoding="utf-8", errors="replace")
    assert status == 0, f"status {status} of {arguments}: {printed[-6000:]}"
    return printed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The project, and what the trainer said: the README's command with fewer steps."""
    folder = tmp_path_factory.mktemp("work") / "mine"
    writing.write(folder, examples.demo("mine"))
    build_untrained("tiny_dense", True, folder / "outputs/models/tiny_dense", seed=3)
    few = ["trainer.total_training_steps=2", "trainer.save_freq=2", "trainer.val_before_train=false"]
    few += ["trainer.test_freq=-1", "verl_ext.export.every=2", "actor_rollout_ref.actor.optim.lr=1e-3"]
    with one_at_a_time():
        return folder, run(folder, *shlex.split(CPU_COMMAND)[1:], *few)


@pytest.mark.ray
@pytest.mark.slow
def test_the_readmes_command_trains(trained: tuple[Path, str]) -> None:
    folder, shown = trained
    log = (folder / RUN / "train.1.log").read_text(encoding="utf-8", errors="replace")
    for step in (1, 2):
        assert re.search(rf"step:{step} .*critic/score/mean", log), log[-3000:]
        assert re.search(rf"^step {step}/2  reward \d", shown, re.MULTILINE), shown
    assert (folder / RUN / "global_step_2/actor").is_dir()
    assert (folder / RUN / "report.html").is_file()


@pytest.mark.ray
@pytest.mark.slow
def test_the_readmes_commands_look_at_the_first_run(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    readme = (folder / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^verl-ext (report|view)( .*?)(?:  +#.*)?$", readme, re.MULTILINE)
    assert [name for name, _ in commands] == ["report", "view"]
    for name, rest in commands:
        run(folder, name, *shlex.split(rest))
    assert "verl's file logger" in (folder / "run-report.html").read_text()
    assert (folder / RUN / "token_export/tokens.html").is_file()


@pytest.mark.ray
@pytest.mark.slow
def test_what_was_trained_is_exported_and_evaluated(trained: tuple[Path, str]) -> None:
    import pyarrow.json
    import pyarrow.parquet
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = trained
    call = [sys.executable, "-c", "import typer\nfrom verl_ext.export.command import export\ntyper.run(export)"]
    done = subprocess.run([*call, RUN], cwd=folder, capture_output=True, text=True, check=True)
    exported = folder / RUN / "model_step_2"
    assert "put together from the shards of 1 rank" in done.stdout
    assert str(exported) in done.stdout
    before, after = made.state(folder / "outputs/models/tiny_dense"), made.state(exported)
    shard = folder / RUN / "global_step_2/actor/model_world_size_1_rank_0.pt"
    saved = {name: getattr(one, "_local_tensor", one) for name, one in torch.load(shard, weights_only=False).items()}
    assert saved.keys() >= after.keys() - {"lm_head.weight"}
    for name in saved:
        assert torch.equal(after[name], saved[name])
    assert any(not torch.equal(before[name], after[name]) for name in before)  # something was learnt

    # The same rows as parquet, which the evaluation reads; greedy in vLLM and in transformers.
    pyarrow.parquet.write_table(pyarrow.json.read_json(folder / "data/validation.jsonl"), folder / "validation.parquet")
    with one_at_a_time():
        options = ["--benchmark", "mine=validation.parquet", "--max-tokens", "24", "--out", "outputs/eval"]
        run(folder, "eval", "run", str(exported), *options)
    summary = json.loads((folder / "outputs/eval/mine/summary.json").read_text())
    assert summary["metrics"]["avg@1"]["n"] == 64
    rows = pyarrow.parquet.read_table(folder / "outputs/eval/mine/generations.parquet").to_pylist()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    equal, seen = 0, set()
    for row in rows[:8]:
        tokens = tokenizer(row["prompt"], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**tokens, max_new_tokens=24, do_sample=False)[0, tokens["input_ids"].shape[1] :]
        # Bytes that are no text: vLLM leaves them out at the end of an answer, transformers writes a replacement sign.
        text = tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")
        equal += text == row["response"].rstrip("\ufffd")
        seen.add(text)
    assert equal >= 7  # two logits may be as good as equal
    assert len(seen - {""}) >= 2, "nothing was compared"

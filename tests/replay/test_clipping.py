"""Which tokens count as clipped: a token export and a replay of its file say the same, and so do a run's metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import NonTensorStack
from verl.workers import engine_workers

from tests.bridge.micro_batches import jagged, micro_batch
from verl_ext import batch_file, plugin
from verl_ext.bridge import token_export
from verl_ext.replay import made
from verl_ext.replay.dump import load
from verl_ext.replay.inputs import prepare
from verl_ext.replay.measure import measure
from verl_ext.replay.run import Request, replay
from verl_ext.replay.subjects import Subject, build
from verl_ext.run.token_export.part import Part
from verl_ext.run.token_export.part import Request as Export

# Clip-Cov's own bounds let it pick nothing among so few tokens.
SETTINGS = {"clip_cov": ["clip_cov_ratio=0.05", "clip_cov_lb=0.0", "clip_cov_ub=50"]}


def columns() -> dict[str, list[Any]]:
    """Made rows; every seventh token of every other one has a ratio of e^1.6 = 4.95, of the others e^-1.6 = 0.2.

    4.95 is beyond verl's dual clip, at 3, where A < 0.
    """
    found = {name: list(rows) for name, rows in made.columns(16, seed=3).items()}
    for row, (old, new) in enumerate(zip(found["old_log_probs"], found["log_probs"], strict=True)):
        old[::7] -= 2
        new[::7] = old[::7] + (1.6 if row % 2 else -1.6)
    return found


def export(folder: Path, loss: str) -> tuple[Path, list[str]]:
    """Verl's `ppo_loss` on the rows with an export under way; the file, and the settings of the loss."""
    settings = [f"{loss}:{text}" for text in SETTINGS.get(loss, [])]
    (subject,) = build([loss], settings)
    rows = columns()
    lengths = [len(row) for row in rows["log_probs"]]
    batch_file.write(folder / "made.parquet", made.columns(16, seed=3), 1, {"vocab_size": made.VOCAB})
    ids = {}
    if subject.method is not None and subject.method.prepares == "group_ids":
        context = prepare(load(folder / "made.parquet"), [subject])[0].context
        assert context.group_ids is not None
        ids["group_ids"] = [row[:n] for row, n in zip(context.group_ids, lengths, strict=True)]
    if subject.method is not None and subject.method.prepares == "segment_ids":
        ids["segment_ids"] = [torch.from_numpy(row).long() for row in rows["segment_ids"]]
    names = ("old_log_probs", "advantages", "entropy")
    fields = {name: [torch.from_numpy(row).float() for row in rows[name]] for name in names}
    data, _ = micro_batch(lengths, **fields, **ids)
    data[token_export.KEY] = NonTensorStack(*(f"u{row // 8}_0_{row % 8}" for row in range(len(lengths))))
    # The output at a position is about the token after it: two of the prompt, the first of them is not read.
    output = jagged([torch.tensor([-9.0, *row, -9.0]).float() for row in rows["log_probs"]])
    subject.actor.model_config = SimpleNamespace(hf_config=SimpleNamespace(vocab_size=made.VOCAB), tokenizer=None)
    part = Part(Export(str(folder / "export"), 1, 0, None, "project/run"), 0, data[token_export.KEY])
    part.mini_batch = 0
    token = token_export._part.set(part)
    torch.manual_seed(0)  # as a replay draws
    try:
        engine_workers.ppo_loss(subject.actor, {"log_probs": output.detach().requires_grad_()}, data)
    finally:
        token_export._part.reset(token)
    part.write()
    return folder / "export" / "step-00001", settings


@pytest.mark.parametrize("loss", ["vanilla", "gspo", "clip_cov", "geo_mean", "espo", "sspo"])
def test_an_export_and_its_replay_clip_the_same_tokens(loss: str, tmp_path: Path) -> None:
    path, settings = export(tmp_path, loss)
    file = batch_file.read_all(path)
    low, high = (np.concatenate(file.columns[f"clipped_{side}"]) for side in ("low", "high"))
    (found,) = replay(Request(path, [loss], settings)).measured
    assert (found.clip_low, found.clip_high) == (low.mean(), high.mean())
    assert low.sum() > 0
    assert high.sum() > 0
    dump = load(path)
    weights = np.concatenate(file.columns["loss_weight"])
    np.testing.assert_allclose(-found.gradient[dump.mask].numpy(), weights, rtol=2e-4, atol=1e-7)
    assert found.ratio is not None
    np.testing.assert_allclose(found.ratio[dump.mask].numpy(), np.concatenate(file.columns["ratio"]), rtol=1e-5)
    assert not (low & high).any()
    if plugin.POLICY_LOSSES.get(loss) is None:  # one of verl's: every advantage here learns, unless it is clipped
        assert found.no_gradient == pytest.approx(found.clip_low + found.clip_high, abs=1e-12)


def reported(loss: str, dump: Any) -> tuple[Any, Mapping[str, float]]:
    """What a replay measures of a loss, and the metrics that the loss emits meanwhile."""
    seen: dict[str, float] = {}
    (subject,) = build([loss])

    def spied(**arguments: Any) -> Any:
        value, metrics = subject.function(**arguments)
        seen.update(metrics)
        return value, metrics

    spy: Subject = dataclasses.replace(subject, function=spied)
    return measure(prepare(dump, [spy])[0], dump), seen


@pytest.mark.parametrize("loss", ["espo", "sspo", "tepo", "dcpo", "grpo_s", "steer", "high_entropy"])
def test_our_losses_report_what_is_counted(loss: str, tmp_path: Path) -> None:
    """The dual clip has a metric of its own, and counts as high here."""
    batch_file.write(tmp_path / "made.parquet", columns(), 1, {"vocab_size": made.VOCAB})
    found, metrics = reported(loss, load(tmp_path / "made.parquet"))
    assert found.clip_low == pytest.approx(metrics["actor/pg_clipfrac_low"], abs=1e-6)
    high = metrics["actor/pg_clipfrac_high"] + metrics["actor/pg_clipfrac_lower"]
    assert found.clip_high == pytest.approx(high, abs=1e-6)
    assert found.clip_high > 0


def test_verls_dual_clip_is_high(tmp_path: Path) -> None:
    """verl's own metrics of `vanilla`: clipped at either bound, and by the dual clip."""
    batch_file.write(tmp_path / "made.parquet", columns(), 1, {})
    found, metrics = reported("vanilla", load(tmp_path / "made.parquet"))
    total = metrics["actor/pg_clipfrac"] + metrics["actor/pg_clipfrac_lower"]
    assert metrics["actor/pg_clipfrac_lower"] > 0.01
    assert found.clip_low + found.clip_high == pytest.approx(total, abs=1e-6)
    assert found.clip_high > metrics["actor/pg_clipfrac_lower"]

"""A run that exports its tokens: what is on disk is what the losses were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trainer
from planted import plant

from verl_ext import batch_file
from verl_ext.batch_file import BatchFile

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEP = 2


@pytest.fixture(scope="module")
def exporting(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    """At a learning rate that leaves the responses different, so that rows can be told apart by their tokens."""
    folder = tmp_path_factory.mktemp("token_export")
    model = plant("tiny_dense", folder / "model")
    own = [
        f"+verl_ext.export.every={STEP}",
        f"trainer.default_local_dir={folder}/run/checkpoints",
        "actor_rollout_ref.actor.calculate_entropy=true",
        "actor_rollout_ref.actor.optim.lr=1e-4",
    ]
    run = trainer.run(folder / "run", [*trainer.overrides(model, data, steps=3), *own])
    assert run.returncode == 0, run.tail()
    return run


@pytest.fixture(scope="module")
def exported(exporting: trainer.Run) -> BatchFile:
    root = exporting.folder / "checkpoints" / "token_export"
    assert [path.name for path in root.iterdir()] == [f"step-{STEP:05d}"]
    return batch_file.read_all(root / f"step-{STEP:05d}")


def test_every_real_row_of_the_step_is_there_once(exporting: trainer.Run, exported: BatchFile) -> None:
    seen = []
    for record in exporting.step(STEP - 1):
        for row, response in enumerate(record["responses"]):
            if record["response_mask"][row].any():
                seen.append((tuple(response.tolist()), tuple(record["old_log_probs"][row].tolist())))
    columns = exported.columns
    found = [
        (tuple(ids.tolist()), tuple(old.tolist()))
        for ids, old in zip(columns["responses"], columns["old_log_probs"], strict=True)
    ]
    assert sorted(found) == sorted(seen)
    assert len(set(columns["key"])) == len(exported)
    assert all(key.startswith(f"{uid}_") for key, uid in zip(columns["key"], columns["uid"], strict=True))


def test_the_first_mini_batch_is_on_policy_and_the_second_is_not(exported: BatchFile) -> None:
    first = np.array(exported.columns["mini_batch"]) == 0
    assert set(exported.columns["mini_batch"]) == {0, 1}
    shift = np.abs(exported.padded("log_probs") - exported.padded("old_log_probs")).max(-1)
    assert shift[first].max() < 1e-3
    assert shift[~first].max() > 10 * shift[first].max()


def test_each_token_has_what_the_loss_made_of_it(exported: BatchFile) -> None:
    columns = exported.columns
    wanted = {"ratio", "lower", "upper", "clipped_low", "clipped_high", "loss_weight", "current_entropy", "group_ids"}
    assert wanted <= columns.keys()
    mask = exported.padded("response_mask").astype(bool)
    values = {name: torch.from_numpy(exported.padded(name))[torch.from_numpy(mask)] for name in (*wanted, "advantages")}
    assert all(bool(torch.isfinite(value.float()).all()) for value in values.values())
    clipped = (values["clipped_low"] + values["clipped_high"]).bool()
    assert not values["loss_weight"][clipped].any()
    free = values["loss_weight"][~clipped]
    assert torch.equal(free.sign(), values["advantages"][~clipped].sign())
    assert free.any()
    for response, texts in zip(columns["responses"], columns["tokens"], strict=True):
        assert len(response) == len(texts)


def test_the_file_says_what_made_it(exported: BatchFile) -> None:
    assert exported.step == STEP
    assert exported.about["loss"] == "espo"
    assert exported.about["vocab_size"] > 256
    assert exported.about["hyper_parameters"]["alpha"] > 0
    assert exported.about["normalisers"]["global_batch_size"] == trainer.MINI_BATCH
    assert len(exported.about["normalisers"]["batch_num_tokens"]) == 2

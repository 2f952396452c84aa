"""A loss of another package, in a folder of its own, through verl's stock entry point; nothing of it is in our tree."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trainer

pytestmark = pytest.mark.ray

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "my_loss"
POLICY_LOSS = "actor_rollout_ref.actor.policy_loss"
BYPASS = "algorithm.rollout_correction.bypass_mode=true"


@pytest.fixture(params=["rollout", pytest.param("actor", marks=pytest.mark.slow)])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_trains_and_reads_entropies_that_vary(
    source: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planted import plant

    package = shutil.copytree(EXAMPLE, tmp_path / "package")
    own = [
        f"{POLICY_LOSS}._target_=my_loss.MyLossConfig",
        f"{POLICY_LOSS}.loss_mode=my_loss",
        f"+{POLICY_LOSS}.kappa=2",
        "algorithm.adv_estimator=grpo",
        "+verl_ext.modules=[my_loss]",
        *([BYPASS] if source == "rollout" else []),
    ]
    arguments = trainer.overrides(plant("tiny_dense", tmp_path / "model"), data, steps=2, algo=None)
    # Workers find it in the working directory of the one run, and on PYTHONPATH in the other.
    if source == "rollout":
        monkeypatch.chdir(package)
    else:
        monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    run = trainer.run(tmp_path / "run", [*arguments, *own])
    assert run.returncode == 0, run.tail()
    (line,) = run.executions
    assert line["loss"] == "my_loss"
    assert line["function"] == "my_loss.my_loss"
    assert line["hyper_parameters"]["kappa"] == 2
    assert line["entropy_source"] == source
    assert set(line["modules"]) == {"my_loss"}
    entropies = [step["actor/my_loss/entropy"] for step in run.steps]
    assert len(entropies) == 2
    assert all(math.isfinite(entropy) and entropy > 0.1 for entropy in entropies)
    assert entropies[0] != entropies[1]
    seen = [row[: len(mask)][mask.bool()] for record in run.records() for row, mask in rows_of(record)]
    assert torch.cat(seen).std() > 0.1


def rows_of(record: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The entropies that the loss saw, and the mask, row by row."""
    return zip(record["context"]["old_entropy"], record["response_mask"], strict=True)

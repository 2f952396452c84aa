"""Two methods in one folder, on the real trainer; the first one goes on from a checkpoint of an earlier verl_ext."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checkpoint import smallest
from tests.checkpoint.test_identity import OLD
from tests.e2e import trainer
from verl_ext.run.checkpoint import identity

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def run(folder: Path, name: str, algo: str, steps: int, *more: str) -> trainer.Run:
    """A run with the checkpoints in `folder`."""
    checkpoints = f"trainer.default_local_dir={folder}/checkpoints"
    return trainer.run(folder / name, smallest.overrides(folder, algo, steps, checkpoints, *more))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, trainer.Run]:
    """GRPO goes on from step 2, ESPO wants to go on from step 3, and is allowed to."""
    folder = smallest.prepare(tmp_path_factory.mktemp("identity"))
    shutil.copytree(OLD.parent, folder / "checkpoints")
    return {
        "grpo": run(folder, "grpo", "grpo", 3),
        "espo": run(folder, "espo", "espo", 4),
        "allowed": run(folder, "allowed", "espo", 4, "+verl_ext.checkpoint.other_run=allow"),
    }


def test_a_checkpoint_without_an_identity_is_resumed_from_with_a_note(runs: dict[str, trainer.Run]) -> None:
    grpo = runs["grpo"]
    assert grpo.returncode == 0, grpo.tail()
    assert "does not tell which run made it" in grpo.log
    assert len(grpo.steps) == 1
    found = identity.of_checkpoint(grpo.folder.parent / "checkpoints" / "global_step_3")
    assert found is not None
    assert found.parts["loss"].name == "vanilla"
    assert all(found.parts[name].key for name in identity.REFUSED)


def test_another_method_is_refused_before_ray_starts(runs: dict[str, trainer.Run]) -> None:
    espo = runs["espo"]
    assert espo.returncode == 1, espo.tail()
    for side in ("loss: vanilla in the checkpoint, espo in this run", "estimator: grpo in the checkpoint, espo in"):
        assert side in espo.log, espo.tail()
    assert "ray init kwargs" not in espo.log
    assert "Started a local Ray instance" not in espo.log


def test_it_goes_on_where_that_is_allowed_and_the_log_says_so(runs: dict[str, trainer.Run]) -> None:
    allowed = runs["allowed"]
    assert allowed.returncode == 0, allowed.tail()
    assert "resuming from another run, because of +verl_ext.checkpoint.other_run=allow" in allowed.log
    assert "loss: vanilla in the checkpoint, espo in this run" in allowed.log
    assert "made with other settings" not in allowed.log
    assert len(allowed.steps) == 1
    found = identity.of_checkpoint(allowed.folder.parent / "checkpoints" / "global_step_4")
    assert found is not None
    assert found.parts["loss"].name == "espo"

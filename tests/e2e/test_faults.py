"""Faults that must end a run with one clear message."""

from __future__ import annotations

import pytest
import trainer

pytestmark = pytest.mark.ray


def test_worker_killed_during_weight_sync_ends_the_run(tmp_path_factory, data) -> None:
    """Upstream waits for ever here: the sender's receive has no time limit and nobody looks at the engine."""
    from verl_ext.demo.models import build_untrained

    folder = tmp_path_factory.mktemp("killed")
    model = build_untrained("tiny_dense", True, folder / "model", seed=0)
    run = trainer.run(
        folder / "run", trainer.overrides(model, data, steps=5), env={"VERL_EXT_DIE_IN_SYNC": "2"}
    )
    pid, died = (run.folder / "record" / "death").read_text().split()
    assert run.returncode != 0
    assert run.ended - float(died) < 60
    assert f"vLLM's worker process {pid} died during the weight sync" in run.log, run.tail()

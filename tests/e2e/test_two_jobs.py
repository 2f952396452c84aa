"""Two jobs started on one machine at the same moment, without a word to each other."""

from __future__ import annotations

import pytest
import trainer

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_both_jobs_train_with_the_weights_of_their_own_model(tmp_path_factory, data) -> None:
    """Sockets, ports, shared memory and Ray's session folder must not be shared by accident.

    The two models differ, so weights that went to the other job's engine are caught by the check of every sync.
    """
    from verl_ext.toy.models import build_untrained

    folder = tmp_path_factory.mktemp("two_jobs")
    jobs = []
    for seed in (0, 1):
        home = folder / f"job{seed}"
        model = build_untrained("tiny_dense", True, folder / f"model{seed}", seed=seed)
        jobs.append((home, [*trainer.overrides(model, data, steps=2), f"trainer.default_local_dir={home}/checkpoints"]))
    for run in trainer.run_together(jobs, limit_s=900):
        assert run.returncode == 0, run.tail()
        assert len(run.steps) == 2
        for step in run.steps:
            assert step["actor/weight_sync/mismatches"] == 0
            assert step["actor/weight_sync/tensors"] > 10
            assert step["training/rollout_log_probs_diff_max"] < 1e-3

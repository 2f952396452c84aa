"""Faults that must end a run with one clear message."""

from __future__ import annotations

import pytest
import trainer

pytestmark = pytest.mark.ray


def test_worker_killed_during_weight_sync_ends_the_run(tmp_path_factory, data) -> None:
    """Upstream waits for ever here: the sender's receive has no time limit and nobody looks at the engine."""
    from verl_ext.toy.models import build_untrained

    folder = tmp_path_factory.mktemp("killed")
    model = build_untrained("tiny_dense", True, folder / "model", seed=0)
    run = trainer.run(folder / "run", trainer.overrides(model, data, steps=5), env={"VERL_EXT_DIE_IN_SYNC": "2"})
    pid, died = (run.folder / "record" / "death").read_text().split()
    assert run.returncode != 0
    assert run.ended - float(died) < 60
    assert f"vLLM's worker process {pid} died during the weight sync" in run.log, run.tail()


@pytest.mark.slow
def test_missing_entropy_ends_the_run_at_once(tmp_path_factory, data) -> None:
    from verl_ext.toy.models import build_untrained

    folder = tmp_path_factory.mktemp("withheld")
    model = build_untrained("tiny_dense", True, folder / "model", seed=0)
    run = trainer.run(folder / "run", trainer.overrides(model, data, steps=2), env={"VERL_EXT_WITHHOLD_ENTROPY": "1"})
    (first_call,) = (run.folder / "record").glob("call-*.pt")
    assert run.returncode != 0
    assert run.ended - first_call.stat().st_mtime < 30
    assert "MissingTokenData" in run.log, run.tail()
    assert "old_entropy" in run.log
    assert run.steps == []


def test_plugin_missing_in_workers_stops_the_run_with_the_node_named(tmp_path_factory, data) -> None:
    """In Ray's workers, and only there, the plugin cannot be imported; verl itself would not say so."""
    from verl_ext.toy.models import build_untrained

    folder = tmp_path_factory.mktemp("missing")
    (folder / "broken").mkdir()
    (folder / "broken" / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('default_worker' in word for word in sys.orig_argv):\n"
        "    sys.modules['verl_ext.bridge.install'] = None\n"
    )
    model = build_untrained("tiny_dense", True, folder / "model", seed=0)
    run = trainer.run(
        folder / "run",
        trainer.overrides(model, data, steps=1),
        env={"VERL_USE_EXTERNAL_MODULES": "", "PYTHONPATH": str(folder / "broken")},
    )
    assert run.returncode == 1, run.tail()
    assert "the plugin is not usable in Ray's workers" in run.log, run.tail()
    assert "policy loss 'espo' is not registered" in run.log
    assert "the plugin failed to load" in run.log

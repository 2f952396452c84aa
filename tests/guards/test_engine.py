"""What the guards rely on in verl's FSDP2 engine: going back in the middle of training, and skipping NaN."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.platform import programs
from verl_ext.toy.models import build_untrained


@pytest.mark.ray  # one process of its own, for as long as a small trainer
def test_a_checkpoint_loaded_in_the_middle_of_training_restores_everything_and_nan_changes_nothing(
    tmp_path: Path,
) -> None:
    model = build_untrained("tiny_dense", True, tmp_path / "model", seed=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    probe = Path(__file__).with_name("engine_probe.py")
    found = programs.finish(programs.start(probe, model, tmp_path, **place, **rank), limit_s=600).result()
    assert found == {
        "training changes the state": True,
        "the state after going back is the saved one": True,
        "the next update is the one that was made before": True,
        "the checkpoint is still there": True,
        "norm of a batch with NaN": "nan",
        "a batch with NaN changes nothing": True,
    }

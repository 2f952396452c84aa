"""Two ranks with half of the rows each give one rank's gradients: the loss is normalised over all rows."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from tests.platform import programs
from verl_ext.toy.models import build_untrained

PROBE = programs.HERE / "rank_probe.py"
TOLERANCE = 1e-5  # of the norm of each parameter's gradient; float32, summed in another order


def gradients(model: Path, world: int, out: Path) -> dict[str, torch.Tensor]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        programs.start(PROBE, model, out, RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", **common)
        for rank in range(world)
    ]
    for finished in [programs.finish(rank, limit_s=240) for rank in ranks]:
        assert finished.returncode == 0, finished.output[-4000:]
    return torch.load(out)


@pytest.mark.ray
def test_two_ranks_give_the_gradients_of_one(tmp_path: Path) -> None:
    model = build_untrained("tiny_dense", True, tmp_path / "model", seed=0)
    one, two = (gradients(model, world, tmp_path / f"{world}.pt") for world in (1, 2))
    assert one.keys() == two.keys()
    assert len(one) == 26  # 2 layers of 7 weights, 3 biases and 2 norms, the embedding and the last norm
    for name, expected in one.items():
        norm = float(expected.norm())
        assert norm > 1e-6, f"{name}: the gradient is zero, so agreeing means nothing"
        assert float((two[name] - expected).norm()) <= TOLERANCE * norm, name

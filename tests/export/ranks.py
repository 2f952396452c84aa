"""A checkpoint of two ranks, written by verl's own checkpoint manager around FSDP2 over gloo: no Ray, no trainer.

Run as a program, once for each rank: ``python ranks.py RANK PORT MODEL OUT``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

WORLD = 2


def save(model: Path, out: Path, limit_s: float = 240.0) -> None:
    """Perturb a model's weights and save it as verl does after a step, from two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*command, str(rank), str(port), str(model), str(out)], env=environment)
        for rank in range(WORLD)
    ]
    try:
        statuses = [process.wait(limit_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert statuses == [0] * WORLD


def _rank(rank: int, port: int, model: Path, out: Path) -> None:
    import torch
    import torch.distributed as dist
    from omegaconf import OmegaConf
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    perturb(network)
    mesh = init_device_mesh("cpu", (WORLD,), mesh_dim_names=("fsdp",))
    for layer in network.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    saved = {"save_contents": ["model"], "load_contents": ["model"]}
    manager = FSDPCheckpointManager(
        network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        processing_class=AutoTokenizer.from_pretrained(model),
        checkpoint_config=OmegaConf.create(saved),
    )
    manager.save_checkpoint(str(out), global_step=2)
    dist.destroy_process_group()


def perturb(network) -> None:  # type: ignore[no-untyped-def]
    """What training would have done: another, seeded number for each weight, with more than bfloat16's 8 bits."""
    import torch

    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))

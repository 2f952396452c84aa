"""One of two training processes with verl's own checkpoint manager: python fsdp_worker.py FOLDER RANK MODE.

Modes: `straight` trains six steps and saves after the third and the sixth; `killed` trains three, saves, and is
killed with SIGKILL in the middle of the fourth; `resumed` loads the third and trains three more.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

WORLD, K = 2, 3


def build() -> Qwen2ForCausalLM:
    """With dropout, so that the random state of each process matters."""
    torch.manual_seed(7)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=0.2,
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model.train()


def set_seeds(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def train(folder: Path, rank: int, mode: str) -> None:
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * K)
    contents = {"save_contents": ["model", "optimizer", "extra"], "load_contents": ["model", "optimizer", "extra"]}
    manager = FSDPCheckpointManager(model, optimizer, schedule, checkpoint_config=contents)
    first = 1
    set_seeds(100 + rank)
    if mode == "resumed":
        set_seeds(999)  # what the checkpoint holds must win
        manager.load_checkpoint(str(folder / "resumed" / f"global_step_{K}" / "actor"))
        first = K + 1
    root = folder / ("straight" if mode == "straight" else "resumed")
    for step in range(first, 2 * K + 1):
        tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1000 * step + rank))
        loss = model(input_ids=tokens, labels=tokens).loss
        if mode == "killed" and step == K + 1:
            dist.barrier()
            os.kill(os.getpid(), signal.SIGKILL)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with (folder / f"{mode}-loss-{rank}").open("a") as file:
            file.write(f"{step} {loss.item().hex()}\n")
        if step % K == 0:
            manager.save_checkpoint(str(root / f"global_step_{step}" / "actor"), global_step=step)


if __name__ == "__main__":
    where, number, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{where}/{what}.store", rank=number, world_size=WORLD)
    train(where, number, what)
    dist.barrier()
    os._exit(0)  # taking the process group down can wait for ever for a peer that is gone already

"""verl's own FSDP checkpoints of two processes: 2k steps equal k, SIGKILL to both, and k more, to the last bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoint.comparison import differences, loaded
from tests.checkpoint.runs import EXTERNAL
from verl_ext.run.checkpoint import choice, layout
from verl_ext.run.checkpoint.errors import OtherWorldSize

pytestmark = pytest.mark.slow

K, LIMIT_S = 3, 300


def both(folder: Path, mode: str) -> list[int]:
    """Two processes to their end; their exit statuses."""
    command = [sys.executable, str(EXTERNAL / "fsdp_worker.py"), str(folder)]
    with (folder / f"{mode}.log").open("wb") as log:
        made = [subprocess.Popen([*command, str(rank), mode], stdout=log, stderr=log) for rank in range(2)]
        try:
            return [process.wait(LIMIT_S) for process in made]
        finally:
            for process in made:
                process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shards")
    for mode, status in (("straight", 0), ("killed", -signal.SIGKILL), ("resumed", 0)):
        assert both(made, mode) == [status, status], (made / f"{mode}.log").read_text()[-3000:]
    return made


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["model", "optim", "extra_state"])
def test_shards_are_equal_to_the_last_bit(folder: Path, kind: str, rank: int) -> None:
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    name = f"actor/{kind}_world_size_2_rank_{rank}.pt"
    one, other = (loaded(folder / run / f"global_step_{2 * K}" / name) for run in ("straight", "resumed"))
    assert list(differences(one, other)) == []
    assert list(differences(loaded(folder / "resumed" / f"global_step_{K}" / name), other)) != []


@pytest.mark.parametrize("rank", [0, 1])
def test_losses_are_equal_to_the_last_bit(folder: Path, rank: int) -> None:
    losses = [(folder / f"{mode}-loss-{rank}").read_text().splitlines() for mode in ("straight", "killed", "resumed")]
    assert losses[0] == losses[1] + losses[2]
    assert len(losses[1]) == K


def test_one_process_cannot_resume_from_them_and_is_told_so(folder: Path) -> None:
    with pytest.raises(OtherWorldSize, match="by 2 training processes, this run has 1"):
        choice.refuse_other_world_size(folder / "resumed" / f"global_step_{K}", 1)
    assert not list((folder / "resumed").rglob(f"*{layout.UNFINISHED}"))

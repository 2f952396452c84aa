"""Checkpoints that cannot be resumed from, or written: what the user sees, how soon, and with which exit code."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoint import runs
from tests.checkpoint.runs import Family, K
from tests.checkpoint.small_disk import small_disk
from tests.e2e import trainer
from verl_ext.run.checkpoint import layout, manifest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def timed(what: str, folder: Path, family: Family, *more: str) -> trainer.Run:
    """A run on a copy of the finished checkpoints at `folder/checkpoints`; says how long it took."""
    arguments = runs.overrides(family.model, family.data, folder / "checkpoints", 2 * K + 1, 1, *more)
    began = time.time()
    run = runs.to_the_end(folder / "out", arguments, folder / "rollouts")
    sys.stdout.write(f"\n{what}: exit {run.returncode}, {run.ended - began:.0f} s with the wait for other runs\n")
    return run


@pytest.fixture
def copy(family: Family, tmp_path: Path) -> Path:
    """The checkpoints of steps 3 and 6."""
    shutil.copytree(family.folder / "checkpoints-resumed", tmp_path / "checkpoints")
    return tmp_path


def flip(shard: Path) -> None:
    """One bit in the middle: name and size stay."""
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


MODEL = "actor/model_world_size_1_rank_0.pt"


def test_an_altered_shard_ends_the_run_before_it_is_loaded(family: Family, copy: Path) -> None:
    flip(copy / "checkpoints" / f"global_step_{2 * K}" / MODEL)
    run = timed("altered shard", copy, family)
    assert run.returncode == 1, run.tail()
    assert f"{MODEL}: is altered" in run.log, run.tail()
    assert f"trainer.resume_from_path={copy}/checkpoints/global_step_{K}" in run.log
    assert not (run.folder / "metrics.jsonl").exists()


def test_a_short_shard_ends_the_run_before_ray_starts(family: Family, copy: Path) -> None:
    shard = copy / "checkpoints" / f"global_step_{2 * K}" / MODEL
    shard.write_bytes(shard.read_bytes()[:-100])
    run = timed("short shard", copy, family)
    assert run.returncode == 1, run.tail()
    assert f"{MODEL}: has {shard.stat().st_size} bytes instead of {shard.stat().st_size + 100}" in run.log, run.tail()
    assert "Started a local Ray instance" not in run.log


def test_nothing_left_to_do_ends_the_run_before_ray_starts(family: Family, copy: Path) -> None:
    run = timed("nothing left to do", copy, family, f"trainer.total_training_steps={2 * K}")
    assert run.returncode == 1, run.tail()
    assert "nothing is left to do" in run.log, run.tail()
    assert "Started a local Ray instance" not in run.log


def test_another_world_size_ends_the_run_before_ray_starts(family: Family, copy: Path) -> None:
    run = timed("other world size", copy, family, "trainer.n_gpus_per_node=2")
    assert run.returncode == 1, run.tail()
    assert "was written by 1 training processes, this run has 2" in run.log, run.tail()


def test_a_run_goes_back_by_itself_and_a_full_disk_leaves_it_there(family: Family, tmp_path: Path) -> None:
    """Step 6 is damaged, so training goes on from step 3; half of the checkpoint of step 4 fits on the disk."""
    source = family.folder / "checkpoints-resumed"
    size = manifest.Manifest.read(source / f"global_step_{K}").size
    used = sum(path.stat().st_size + 4096 for path in source.rglob("*") if path.is_file())
    with small_disk(tmp_path / "checkpoints", used + size // 2) as disk:
        shutil.copytree(source, disk, dirs_exist_ok=True)
        flip(disk / f"global_step_{2 * K}" / MODEL)
        own = ["+verl_ext.checkpoint.on_corrupt=previous", "+verl_ext.checkpoint.check_space=false"]
        run = timed("full disk", tmp_path, family, *own)
        assert run.returncode == 1, run.tail()
        assert f"Going back to {disk}/global_step_{K}" in run.log
        assert f"the checkpoint of step {K + 1} was not written: the disk verl-ext-test (tmpfs) mounted at" in run.log
        assert not (disk / f"global_step_{K + 1}").exists()
        assert manifest.complete(disk / f"global_step_{K}")
        assert (disk / layout.TRACKER).read_text() == str(2 * K)

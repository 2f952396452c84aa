"""Room on a disk, and what a full one looks like to torch."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.checkpoint.small_disk import small_disk
from verl_ext.run.checkpoint import space
from verl_ext.run.checkpoint.errors import CheckpointNotWritten
from verl_ext.run.checkpoint.saving import Saving, short_of_room
from verl_ext.run.checkpoint.settings import CheckpointSettings

MIB = 2**20


def test_a_full_disk_under_torchs_writer_is_recognised(tmp_path: Path) -> None:
    """Torch raises a RuntimeError without an error number."""
    with small_disk(tmp_path / "disk", MIB) as disk:
        assert space.free(disk / "not" / "there") == MIB
        assert space.disk(disk / "not" / "there") == f"verl-ext-test (tmpfs) mounted at {disk}"
        with pytest.raises(RuntimeError) as error:  # once it is an OSError, _FULL can be shortened
            torch.save({"weights": torch.zeros(MIB)}, disk / "model.pt")
        assert space.says_full(error.value)
        assert space.free(disk) < MIB // 4


def test_it_is_recognised_behind_other_errors() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("a worker died")
    wrapped.__cause__ = full
    assert space.says_full(wrapped)
    assert space.says_full(OSError(errno.ENOSPC, "in another language"))
    assert space.says_full(OSError(errno.EDQUOT, "in another language"))
    assert not space.says_full(RuntimeError("a worker died"))
    assert not space.says_full(OSError(errno.EACCES, "Permission denied"))


def test_it_is_recognised_behind_an_error_raised_while_it_was_handled() -> None:
    died = RuntimeError("a worker died")
    died.__context__ = OSError(errno.ENOSPC, "No space left on device")  # as `raise` without `from` leaves it
    assert space.says_full(died)


def test_what_is_kept_for_root_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = SimpleNamespace(f_bavail=3, f_bfree=5, f_blocks=9, f_frsize=4096, f_bsize=65536)
    monkeypatch.setattr(space.os, "statvfs", lambda _: blocks)
    assert space.free(tmp_path) == 3 * 4096


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 * MIB, "3.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert space.readable(size) == text


def test_the_bytes_of_a_process_are_its_parameters_and_both_moments_of_adam() -> None:
    module = torch.nn.Linear(100, 50)  # 5000 + 50 parameters
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.zeros(1, 100)).sum().backward()
    optimizer.step()
    # three copies of 4 bytes, and a step counter of 4 bytes for each of the two tensors
    expected = 3 * 4 * 5050 + 2 * 4
    assert space.tensor_bytes(SimpleNamespace(module=module, optimizer=optimizer)) == expected + MIB


def test_buffers_are_written_too() -> None:
    module = torch.nn.Linear(3, 2, bias=False)  # 6 parameters
    module.register_buffer("inverse_frequencies", torch.zeros(10))
    engine = SimpleNamespace(module=module, optimizer=torch.optim.SGD(module.parameters()))
    assert space.tensor_bytes(engine) == 4 * (6 + 10) + MIB


def test_an_engine_of_another_kind_is_not_guessed_at() -> None:
    assert space.tensor_bytes(SimpleNamespace(module=[torch.nn.Linear(2, 2)], optimizer=None)) == 0
    assert space.tensor_bytes(None) == 0


def room(node: str, shared: bool, needed: int, free: int) -> dict[str, object]:
    return {"node": node, "shared": shared, "needed": needed, "free": free, "disk": f"disk of {node}"}


def test_processes_on_one_disk_share_its_room() -> None:
    """Two of 6 fit into 12, not into 11."""
    assert short_of_room([room("n0", True, 6, 12), room("n1", True, 6, 12)]) == []
    assert short_of_room([room("n0", True, 6, 11), room("n1", True, 6, 11)]) == [("", 12, 11, "disk of n0")]


def test_each_node_with_a_disk_of_its_own_is_looked_at() -> None:
    rooms = [room("n0", True, 6, 7), room("n1", False, 6, 5), room("n2", False, 6, 6)]
    assert short_of_room(rooms) == [(" on node n1", 6, 5, "disk of n1")]


@pytest.mark.parametrize(
    ("check_space", "frees_first", "begins"), [(True, True, True), (False, False, True), (True, False, False)]
)
def test_a_disk_that_is_short_only_until_an_older_checkpoint_goes_is_no_obstacle(
    tmp_path: Path, check_space: bool, frees_first: bool, begins: bool
) -> None:
    settings = CheckpointSettings(check_space=check_space)
    saving = Saving(tmp_path, 2, {"actor": lambda *_: [room("n0", True, 6, 5)]}, settings)
    if begins:
        saving.begin(frees_first)
        return
    with pytest.raises(CheckpointNotWritten, match="disk of n0 has no room"):
        saving.begin(frees_first)

"""A family of processes takes vLLM's sockets with it; see tests/demo for its processes and shared memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from verl_ext.process import SOCKETS, ProcessFamily, run_family

# A socket that nobody closes, as of an engine that was killed, and where it lies.
LEAVE_A_SOCKET = f"""
import os, socket, time
path = os.path.join(os.environ[{SOCKETS!r}], "left")
socket.socket(socket.AF_UNIX).bind(path)
print(path, flush=True)
"""


@pytest.mark.parametrize("ending", ["", "time.sleep(60)"], ids=["ends", "is ended"])
def test_sockets_go_with_the_family(tmp_path: Path, ending: str) -> None:
    family = ProcessFamily([sys.executable, "-c", LEAVE_A_SOCKET + ending], dict(os.environ), tmp_path / "log")
    while not (tmp_path / "log").read_text().strip():
        assert family.poll() in (None, 0)
    left = Path((tmp_path / "log").read_text().strip())
    assert left.parent.is_dir()
    family.end()
    assert not left.parent.exists()


def test_a_folder_that_the_user_names_is_theirs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAVE_A_SOCKET]
    assert run_family(command, {SOCKETS: str(tmp_path)}, tmp_path / "log", lambda it: it.follow(lambda: None)) == 0
    assert (tmp_path / "left").exists()


def test_a_command_that_cannot_start_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        ProcessFamily([str(tmp_path / "no such program")], dict(os.environ), tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]

import os
import subprocess
import sys

import pytest

from verl_ext import files


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "state.json"
    files.write_json(path, {"step": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"step": float("nan")})
    with pytest.raises(ZeroDivisionError), files.whole(path) as beside:
        beside.write_text(f"half {1 / 0}" if beside.write_text("half") else "")
    assert path.read_text() == '{\n "step": 1\n}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "a", []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(path.exists()))
    files.write_text(path, "x")
    assert seen == [False, True]


def test_one_process_holds_a_lock_and_its_death_frees_it(tmp_path):
    lock = tmp_path / "new" / ".lock"
    code = (
        "import sys, time, pathlib; from verl_ext import files\n"
        "with files.locked(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BlockingIOError, match="held by another process"), files.locked(lock):
            pass
    finally:
        holder.kill()
        holder.wait()
    with files.locked(lock):
        pass

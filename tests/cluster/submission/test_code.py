"""What is sent of a folder, and how large Ray's archive of it is."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from verl_ext.cluster.submission import code
from verl_ext.cluster.submission.code import LIMIT, Package, measure


def fill(folder: Path, names: list[str], size: int = 10) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


KEPT = ["reward.py", "pkg/data/read.py", "pkg/größe.py", "configs/a.yaml"]
LEFT_OUT = [
    "outputs/run/log.txt", "checkpoints/a/latest", "data/train.parquet", "model/model.safetensors", "a/global_step_2/x",
    ".env", ".git/HEAD", ".venv/bin/python", "pkg/__pycache__/a.pyc", "wandb/run/x", "secret.txt", "runs/mine/x",
    "k.pem",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path, [*KEPT, *LEFT_OUT])
    (tmp_path / ".gitignore").write_text("secret.txt\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_code_is_sent_and_nothing_else(folder: Path) -> None:
    found = measure(folder, [str(folder / "runs" / "mine"), "/elsewhere/x", "hdfs://a/b"])
    assert sorted(found.files) == sorted([*KEPT, ".gitignore"])
    assert "/runs/mine" in found.excludes


def test_the_size_by_hand(tmp_path: Path) -> None:
    # 30 + 46 bytes of headers, twice the 4 letters of the name, 10 bytes of content, 22 bytes at the end
    fill(tmp_path, ["a.py"])
    assert measure(tmp_path).size == 30 + 46 + 2 * 4 + 10 + 22


def test_the_size_is_that_of_rays_archive(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _zip_files

    found = measure(folder)
    archive = tmp_path_factory.mktemp("zip") / "code.zip"
    excludes = [*get_runtime_env_default_excludes(), *found.excludes]
    _zip_files(str(folder), excludes, str(archive), include_gitignore=True)
    assert found.size == archive.stat().st_size
    with zipfile.ZipFile(archive) as packed:
        assert sorted(name for name in packed.namelist() if not name.endswith("/")) == sorted(found.files)


def test_the_limit_is_rays() -> None:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    assert LIMIT == GCS_STORAGE_MAX_SIZE


def test_too_much_is_a_fault_and_much_a_question(tmp_path: Path) -> None:
    files = {"big.tar": LIMIT - 100, "a.py": 10}
    [fault] = Package(tmp_path, (), LIMIT, files).faults()
    assert "512 MiB" in fault
    assert "big.tar (512.0 MiB)" in fault
    assert Package(tmp_path, (), LIMIT - 1, files).faults() == []
    assert "is that all code?" in Package(tmp_path, (), LIMIT - 1, files).notes()[0]
    assert "?" not in Package(tmp_path, (), 99 * code.MIB, files).notes()[0]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="--code"):
        measure(tmp_path / "none")

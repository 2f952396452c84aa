"""The list of files: what it holds, what it notices, and who reads what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from verl_ext.run.checkpoint import layout, manifest
from verl_ext.run.checkpoint.errors import Fault
from verl_ext.run.checkpoint.manifest import Entry, Manifest

# Of FIPS 180-2, appendix B.1: the digest of the three bytes "abc".
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "global_step_4"
    (made / "actor").mkdir(parents=True)
    (made / "actor" / "model_world_size_2_rank_0.pt").write_bytes(b"abc")
    (made / "actor" / "model_world_size_2_rank_1.pt").write_bytes(b"de")
    (made / "data.pt").write_bytes(b"f" * 10)
    return made


def sealed(folder: Path, digest: bool = True) -> Manifest:
    found = Manifest(4, {"actor": 2}, tuple(manifest.seal(folder, layout.files(folder), digest)), {"verl": "1"})
    found.write(folder)
    return found


def test_a_list_has_every_file_with_size_and_digest(folder: Path) -> None:
    entries = {entry.path: entry for entry in sealed(folder).entries}
    assert entries["actor/model_world_size_2_rank_0.pt"] == Entry("actor/model_world_size_2_rank_0.pt", 3, ABC)
    assert sorted(entries) == ["actor/model_world_size_2_rank_0.pt", "actor/model_world_size_2_rank_1.pt", "data.pt"]
    assert Manifest.read(folder).size == 3 + 2 + 10


def test_files_are_on_the_disk_before_they_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(manifest.os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    paths = list(layout.files(folder))
    manifest.seal(folder, paths, digest=False)
    assert flushed == [(folder / path).stat().st_ino for path in paths]


def test_a_list_reads_as_it_was_written(folder: Path) -> None:
    entries = (Entry("a", 1, ABC, None), Entry("b", 2, "", (1, 3)))
    made = Manifest(7, {"actor": 4, "critic": 4}, entries, {"verl": "0.9.1"})
    made.write(folder)
    assert Manifest.read(folder) == made


def test_writing_the_list_ends_the_mark_of_an_unfinished_checkpoint(folder: Path) -> None:
    layout.begin(folder)
    assert not manifest.complete(folder)
    sealed(folder)
    assert manifest.complete(folder)
    assert not (folder / layout.UNFINISHED).exists()


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip(path: Path) -> None:
    """One bit."""
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (delete, "is missing"),
        (cut, "has 2 bytes instead of 3"),
        (lengthen, "has 4 bytes instead of 3"),
        (flip, "is altered: its SHA-256 is "),
    ],
)
def test_each_kind_of_damage_names_the_file_and_what_is_wrong(folder: Path, damage: Any, what: str) -> None:
    entries = sealed(folder).entries
    assert manifest.check(folder, entries, content=True) == []
    damage(folder / "actor" / "model_world_size_2_rank_0.pt")
    (fault,) = manifest.check(folder, entries, content=True, node="n7")
    assert fault.path == "actor/model_world_size_2_rank_0.pt"
    assert fault.what.startswith(what)
    assert str(fault).endswith("(on node n7)")


def test_an_altered_file_is_seen_by_its_content_alone(folder: Path) -> None:
    entries = sealed(folder).entries
    flip(folder / "data.pt")
    assert manifest.check(folder, entries, content=False) == []
    assert [fault.path for fault in manifest.check(folder, entries, content=True)] == ["data.pt"]
    assert manifest.check(folder, manifest.seal(folder, ["data.pt"], digest=False), content=True) == []


def test_a_checkpoint_that_lost_files_is_not_complete(folder: Path) -> None:
    """As after verl's own rotation, which removes the folder of the actor and leaves the rest."""
    sealed(folder)
    assert manifest.complete(folder)
    delete(folder / "actor" / "model_world_size_2_rank_1.pt")
    assert not manifest.complete(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 99}', "\x00\x01"])
def test_a_damaged_list_is_one_sentence(folder: Path, text: str) -> None:
    (folder / layout.MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read|has version 99"):
        Manifest.read(folder)
    assert not manifest.complete(folder)


def view(node: str, shared: bool, *paths: str) -> dict[str, Any]:
    return {"node": node, "shared": shared, "files": dict.fromkeys(paths, 1)}


SHARDS = [f"actor/model_world_size_4_rank_{rank}.pt" for rank in range(4)]


def test_on_a_shared_disk_each_rank_reads_its_own_shard_and_no_file_is_read_twice() -> None:
    everything = [*SHARDS, "actor/fsdp_config.json", "data.pt"]
    jobs = manifest.share_out([view(f"n{rank // 2}", True, *everything) for rank in range(4)], ["actor"])
    assert [[path for path in job if "rank" in path] for job in jobs] == [[shard] for shard in SHARDS]
    assert sorted(path for job in jobs for path in job) == sorted(
        [*SHARDS, "actor/fsdp_config.json"]
    )  # data.pt is the trainer's


def test_without_a_shared_disk_each_node_reads_what_only_it_has() -> None:
    here, there = [*SHARDS[:2], "actor/fsdp_config.json"], SHARDS[2:]
    views = [view("n0", True, *here)] * 2 + [view("n1", False, *there)] * 2
    jobs = manifest.share_out(views, ["actor"])
    assert jobs[2:] == [[SHARDS[2]], [SHARDS[3]]]
    assert sorted(jobs[0] + jobs[1]) == sorted(here)
    entries = manifest.on_nodes([[Entry(path, 1) for path in job] for job in jobs], views)
    assert {entry.path: entry.ranks for entry in entries} == {
        SHARDS[0]: None,
        SHARDS[1]: None,
        "actor/fsdp_config.json": None,
        SHARDS[2]: (2, 3),
        SHARDS[3]: (2, 3),
    }


def test_faults_and_entries_travel_between_processes() -> None:
    import pickle

    for thing in (Fault("a", "is missing", "n1"), Entry("a", 1, ABC, (0,))):
        assert pickle.loads(pickle.dumps(thing)) == thing


def test_the_list_is_readable_by_hand(folder: Path) -> None:
    sealed(folder)
    found = json.loads((folder / layout.MANIFEST).read_text())
    assert (found["step"], found["world_size"], found["entries"][0]["sha256"]) == (4, {"actor": 2}, ABC)

"""The command: exit status, table and JSON, an address where nothing answers, a child that hangs or dies."""

from __future__ import annotations

import io
import json
import re
import socket
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.cluster.preflight.made import WANTED, cluster, node, seen
from tests.cluster.preflight.test_wanted import DEMO
from verl_ext.cluster.preflight import Finding, Found, Wanted, child, command, gather
from verl_ext.cluster.preflight.report import merged

UNTIL_S = 5.0


def answering(found: Found) -> object:
    def stand_in(wanted: Wanted, address: str | None, limit_s: float, meanwhile: object) -> Found:
        assert callable(meanwhile)
        meanwhile()
        return found

    return stand_in


@pytest.fixture
def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def run(*arguments: str, **options: object) -> tuple[int, str]:
    text = io.StringIO()
    console = Console(file=text, width=160)
    return command.preflight(arguments, console=console, **options), text.getvalue()  # type: ignore[arg-type]


def test_the_table_and_the_line_of_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "bare", lambda: WANTED)
    monkeypatch.setattr(command, "gather", answering(cluster()))
    status, said = run()
    assert (status, said.splitlines()[-1].split(",")[0]) == (0, "ready: 0 faults")
    assert re.search(r"ok +vllm +10\.0\.0\.1, 10\.0\.0\.2 +0\.24\.0 +0\.24\.0", said)
    broken = node("10.0.0.2", seen=seen(plugin={"error": "ImportError: x", "version": None, "asked": None}))
    monkeypatch.setattr(command, "gather", answering(cluster(second=broken)))
    status, said = run()
    assert status == 1
    assert "fault plugin on node 10.0.0.2: wanted verl_ext 0.1.0, 3 names registered, found ImportError: x" in said
    assert said.splitlines()[-1].startswith("not ready: 1 fault,")


def test_json_holds_every_finding_of_every_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "bare", lambda: WANTED)
    monkeypatch.setattr(command, "gather", answering(cluster(second=node("b", seen=None, fault="gone"))))
    assert command.preflight([], json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    (fault,) = [line for line in report["findings"] if line["level"] == "fault"]
    assert (fault["check"], fault["node"], fault["found"]) == ("probe", "b", "gone")
    assert Found.from_data(report["found"]).nodes[0].address == "10.0.0.1"


def test_a_key_that_does_not_exist_is_a_fault_beside_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "gather", answering(Found("local", nodes=[])))
    status, said = run("algo=espo", "trainer.nnode=2")
    assert status == 1
    assert "trainer.nnode" in said
    assert "did you mean" in said


def test_faults_of_the_configuration_are_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "gather", answering(Found("local", nodes=[])))
    status, said = run(*DEMO, "data.train_batch_size=2")
    assert status == 1
    assert "fault config: data.train_batch_size=2 is below actor_rollout_ref.actor.ppo_mini_batch_size=4" in said
    # Each node is asked for the data; that they are not here is no news.
    assert "not on this machine" not in said


def test_nothing_answers_at_the_address(free_address: str) -> None:
    started = time.monotonic()
    status, said = run(address=free_address, limit_s=30.0)
    assert status == 1
    assert f"Ray: wanted reachable at {free_address}, found nothing answers" in said
    assert "Connection refused" in said
    assert time.monotonic() - started < 25


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:port"])
def test_addresses_that_cannot_be_asked(address: str) -> None:
    assert "host:port" in str(child.unreachable(address))


def test_this_machine_without_ray() -> None:
    findings, found = command.look([], "local", 60.0)
    assert found.local
    assert found.error is None
    (machine,) = found.nodes
    assert machine.seen is not None
    assert machine.seen.versions["verl"] == "0.9.1"
    assert machine.seen.disk["folder"] is None
    (plugin,) = [finding for finding in findings if finding.check == "plugin"]
    assert plugin.level == "ok", plugin


def stub(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Another child in the place of the real one."""
    (folder / "child.py").write_text(program)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    (folder / "python").write_text(f'#!/bin/sh\nshift 2\nexec {sys.base_prefix}/bin/python3 {folder}/child.py "$@"\n')
    (folder / "python").chmod(0o755)


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, monkeypatch, "import time; time.sleep(600)")
    started = time.monotonic()
    found = gather.gather(WANTED, "head:6379", 1.0, lambda: None)
    assert found.error == "no answer within 1 s"
    assert time.monotonic() - started < UNTIL_S


def test_a_child_that_dies_leaves_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, monkeypatch, "import sys; print('Check failed: gcs'); sys.exit(9)")
    found = gather.gather(WANTED, "head:6379", 20.0, lambda: None)
    assert found.error == "the probing process ended with status 9: Check failed: gcs"


def test_an_answer_counts_although_the_child_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = cluster().to_json()
    program = f"import sys, time; open(sys.argv[2], 'w').write({answer!r}); time.sleep(600)"
    stub(tmp_path, monkeypatch, program)
    assert gather.gather(WANTED, "head:6379", 2.0, lambda: None) == cluster()


def test_nodes_that_share_an_address_keep_their_own_names() -> None:
    nodes = [
        {"NodeManagerAddress": "10.0.0.1", "NodeName": "10.0.0.1", "NodeID": "0123456789"},
        {"NodeManagerAddress": "10.0.0.1", "NodeName": "second", "NodeID": "abcdef"},
        {"NodeManagerAddress": "10.0.0.2", "NodeName": "third", "NodeID": "fedcba"},
    ]
    assert child.labels(nodes) == ["10.0.0.1 (01234567)", "10.0.0.1 (second)", "10.0.0.2"]


def test_ray_finds_no_cluster_where_none_is_named(monkeypatch: pytest.MonkeyPatch, free_address: str) -> None:
    assert child.resolve("local") == "local"
    assert child.resolve("head:6379") == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", free_address)
    assert child.resolve(None).endswith(free_address.rpartition(":")[2])


def test_lines_that_differ_are_kept_apart() -> None:
    lines = [Finding("ok", "ray", node, "2", "2") for node in "abcde"] + [Finding("fault", "ray", "f", "2", "1")]
    assert [(line.level, line.node) for line in merged(lines)] == [("ok", "a, b, c and 2 more"), ("fault", "f")]

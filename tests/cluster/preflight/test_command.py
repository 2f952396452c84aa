"""The command: exit status, table and JSON, an address where nothing answers, a child that hangs or dies."""

from __future__ import annotations

import io
import json
import pickle
import re
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.cluster.preflight.made import WANTED, cluster, node, seen
from tests.cluster.preflight.test_wanted import DEMO
from verl_ext.cluster.preflight import Finding, Found, Wanted, asking, child, command, gather, survey
from verl_ext.cluster.preflight.configured import Configured
from verl_ext.cluster.preflight.report import merged

UNTIL_S = 5.0


def answering(found: Found) -> object:
    def stand_in(wanted: Wanted, address: str | None, deadline: float) -> Found:
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
    status, said = run(*DEMO, "data.train_batch_size=2", limit_s=300.0)
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


@pytest.mark.parametrize(
    ("reply", "told"), [(b"HTTP/1.1 400 Bad Request\r\n", "something else than Ray"), (b"", "timed out")]
)
def test_something_else_listens_at_the_address(reply: bytes, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the job server, whose port is easily taken for Ray's; ray.init would wait for two minutes."""
    monkeypatch.setattr(child, "_CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        if reply:
            threading.Thread(target=lambda: server.accept()[0].sendall(reply), daemon=True).start()
        assert told in str(child.unreachable(f"127.0.0.1:{server.getsockname()[1]}"))


def test_a_grpc_server_is_taken_for_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0))
        threading.Thread(target=lambda: server.accept()[0].sendall(settings), daemon=True).start()
        assert child.unreachable(f"127.0.0.1:{server.getsockname()[1]}") is None


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:port"])
def test_addresses_that_cannot_be_asked(address: str) -> None:
    assert "host:port" in str(child.unreachable(address))


def test_this_machine_without_ray() -> None:
    findings, found = command.look([], "local", time.monotonic() + 60.0)
    assert found is not None
    assert found.local
    assert found.error is None
    (machine,) = found.nodes
    assert machine.seen is not None
    assert machine.seen.versions["verl"] == "0.9.1"
    assert machine.seen.disk["folder"] is None
    (plugin,) = [finding for finding in findings if finding.check == "plugin"]
    assert plugin.level == "ok", plugin


def stub(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Other children in the place of the real ones; a real one where there is none for it."""
    for name, program in programs.items():
        (folder / name).write_text(program)
    python = folder / "python"
    base = f"{sys.base_prefix}/bin/python3"
    cases = "".join(
        f'verl_ext.cluster.preflight.{name}) shift 2; exec {base} {folder}/{name} "$@";;\n' for name in programs
    )
    python.write_text(f'#!/bin/sh\ncase "$2" in\n{cases}esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(asking.sys, "executable", str(python))


def within(seconds: float) -> float:
    return time.monotonic() + seconds


HANGS = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, monkeypatch, child=HANGS)
    started = time.monotonic()
    found = gather.gather(WANTED, "head:6379", within(1.0))
    assert found.error == "not answered in time"
    assert time.monotonic() - started < UNTIL_S


def test_a_child_that_dies_leaves_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, monkeypatch, child="import sys; print('Check failed: gcs'); sys.exit(9)")
    found = gather.gather(WANTED, "head:6379", within(20.0))
    assert found.error == "the probing process ended with status 9: Check failed: gcs"


def test_an_answer_counts_although_the_child_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = cluster().to_json()
    stub(tmp_path, monkeypatch, child=f"import sys, time; open(sys.argv[2], 'w').write({answer!r}); time.sleep(600)")
    assert gather.gather(WANTED, "head:6379", within(2.0)) == cluster()


def test_the_time_is_that_of_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both processes hang and do not even listen to SIGTERM: the limit, and at most eight seconds."""
    stub(tmp_path, monkeypatch, child=DEAF, configured=DEAF)
    started = time.monotonic()
    status, said = run(*DEMO, address="head:6379", limit_s=2.0)
    assert (status, time.monotonic() - started < 10) == (1, True)
    assert "fault config: wanted checked, found not answered in time; give more time with --limit" in said
    # Without the configuration nobody knows what to ask the cluster for.
    assert said.count("not answered") == 2


def test_what_is_known_of_the_nodes_is_told_without_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composed, but not yet checked: verl's import is slow; one node has not answered, one has not imported verl."""
    slow = node("10.0.0.2", seen=seen(plugin=survey.SILENT))
    silent = node("10.0.0.3", seen=None, fault=survey.LATE)
    answer = cluster(second=slow)
    answer.nodes.append(silent)
    (tmp_path / "made").write_bytes(pickle.dumps(Configured(WANTED)))
    stub(
        tmp_path, monkeypatch,
        configured=f"import os, sys, time; os.rename({str(tmp_path / 'made')!r}, sys.argv[2]); time.sleep(600)",
        child=f"import sys, time; open(sys.argv[2], 'w').write({answer.to_json()!r}); time.sleep(600)",
    )  # fmt: skip
    status, said = run(*DEMO, address="head:6379", limit_s=6.0)
    assert status == 1
    assert "fault config: wanted checked, found not answered in time" in said
    assert "fault probe on node 10.0.0.3: wanted an answer, found not answered in time" in said
    assert "fault plugin on node 10.0.0.2: wanted verl_ext 0.1.0, 3 names registered, found not answered" in said
    assert "importing verl takes long there" in said
    assert "ok     vllm" in said


def test_nodes_that_share_an_address_keep_their_own_names() -> None:
    nodes = [
        {"NodeManagerAddress": "10.0.0.1", "NodeName": "10.0.0.1", "NodeID": "0123456789"},
        {"NodeManagerAddress": "10.0.0.1", "NodeName": "second", "NodeID": "abcdef"},
        {"NodeManagerAddress": "10.0.0.2", "NodeName": "third", "NodeID": "fedcba"},
    ]
    assert survey.labels(nodes) == ["10.0.0.1 (01234567)", "10.0.0.1 (second)", "10.0.0.2"]


def test_ray_finds_no_cluster_where_none_is_named(monkeypatch: pytest.MonkeyPatch, free_address: str) -> None:
    assert child.resolve("local") == "local"
    assert child.resolve("head:6379") == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", free_address)
    assert child.resolve(None).endswith(free_address.rpartition(":")[2])


def test_lines_that_differ_are_kept_apart() -> None:
    lines = [Finding("ok", "ray", node, "2", "2") for node in "abcde"] + [Finding("fault", "ray", "f", "2", "1")]
    assert [(line.level, line.node) for line in merged(lines)] == [("ok", "a, b, c and 2 more"), ("fault", "f")]

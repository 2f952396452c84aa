"""Attempts, exit codes, broken connections and Ctrl-C, with a job server that is played."""

from __future__ import annotations

import dataclasses
import io
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus
from rich.console import Console

from verl_ext.cluster.submission import client as module
from verl_ext.cluster.submission.client import ServerLostError, address_faults, connect, new_identity, rivals
from verl_ext.cluster.submission.job import Job
from verl_ext.cluster.submission.supervise import Supervisor


def ended(status: str = "SUCCEEDED", code: int | None = 0, kind: str | None = None) -> Any:
    return SimpleNamespace(status=JobStatus(status), driver_exit_code=code, error_type=kind, message="why")


@dataclass
class Server:
    """Plays an attempt after the other: pieces of its log, an exception for a broken connection, and its end."""

    attempts: list[tuple[list[Any], Any]]
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    jobs: list[Any] = field(default_factory=list)
    connections: int = 0

    def submit_job(self, **given: Any) -> str:
        self.submitted.append(given)
        return given["submission_id"]

    async def tail_job_logs(self, identity: str) -> AsyncIterator[str]:
        pieces = self.attempts[len(self.submitted) - 1][0]
        self.connections += 1
        broken = 0
        for piece in pieces:
            if isinstance(piece, BaseException):
                broken += 1
                if broken == self.connections or isinstance(piece, KeyboardInterrupt):
                    raise piece
            else:
                yield piece

    def get_job_info(self, identity: str) -> Any:
        return ended("STOPPED", None) if identity in self.stopped else self.attempts[len(self.submitted) - 1][1]

    def stop_job(self, identity: str) -> bool:
        self.stopped.append(identity)
        return True

    def list_jobs(self) -> list[Any]:
        return self.jobs


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.01)


def play(job: Job, server: Server, answer: bool | None = None) -> tuple[int, list[str], str]:
    lines: list[str] = []
    text = io.StringIO()
    console = Console(file=text, soft_wrap=True, highlight=False, markup=False)
    made = Supervisor(job, server, "http://head:8265", console, lines.append, lambda: answer, delay=0.0)
    return made.run(), lines, text.getvalue()


def test_a_job_that_succeeds(job: Job) -> None:
    server = Server([(["one\ntw", "o\nstep:1 - critic/rewards/mean:0.5\n", "last"], ended())])
    status, lines, said = play(job, server)
    assert status == 0
    assert lines == ["one", "two", "step:1 - critic/rewards/mean:0.5", "last"]
    assert "succeeded at step 1" in said
    [given] = server.submitted
    assert given["entrypoint"] == """python train.py 'a='"'"'x y'"'"''"""
    assert given["runtime_env"] == {"env_vars": {"NCCL_DEBUG": "INFO", "WANDB_API_KEY": "0123456789"}}
    assert given["metadata"] == {"name": "espo 7b", "checkpoints": "/shared/runs/a"}


def test_the_exit_code_is_passed_on_and_faults_are_not_restarted(job: Job) -> None:
    log = "Traceback (most recent call last):\n  x\nValueError: the batch 0123456789\n"
    status, lines, said = play(job, Server([([log], ended("FAILED", 3))]))
    assert status == 3
    assert "exit code 3, before its first step" in said
    assert "ValueError: the batch ***" in said
    assert "not restarted: nothing in the log" in said
    assert "0123456789" not in said + "".join(lines)


def test_a_job_that_is_killed_goes_on_from_its_checkpoint(job: Job) -> None:
    first = (["step:4 - a:1\n"], ended("FAILED", -9))
    second = (["setting global step to 4\nstep:5 - a:1\n"], ended())
    server = Server([first, second])
    status, _, said = play(job, server)
    assert status == 0
    identities = [given["submission_id"] for given in server.submitted]
    assert identities[1] == f"{identities[0]}-r1"
    assert server.submitted[0]["entrypoint"] == server.submitted[1]["entrypoint"]
    assert "FAILED, exit code 137, after step 4" in said
    assert "restart 1 of 2" in said
    assert "ended by SIGKILL" in said
    assert "resumes from the last checkpoint in /shared/runs/a" in said
    assert "void" not in said


@pytest.mark.parametrize("first", ["step:5 - a:1", "step:4 - val-core/x/acc/mean@1:0.5"])
def test_steps_that_are_made_again_are_told(job: Job, first: str) -> None:
    """Step 7 was logged, step 4 saved; the second attempt logs nothing, the third begins at 5, or validates 4 first."""
    killed = ended("FAILED", -9)
    server = Server([(["step:7 - a:1\n"], killed), (["setting global step to 4\n"], killed), ([f"{first}\n"], ended())])
    _, _, said = play(job, server)
    identity = server.submitted[2]["submission_id"]
    assert f"{identity} began at step 5: steps 5 to 7 logged before are void" in said.splitlines()


def test_restarts_end(job: Job) -> None:
    server = Server([([], ended("FAILED", 137))] * 4)
    status, _, said = play(job, server)
    assert (status, len(server.submitted)) == (137, 3)
    assert "all 2 restarts are used up" in said


def test_no_restarts_without_being_asked(job: Job) -> None:
    server = Server([([], ended("FAILED", 137))])
    assert play(dataclasses.replace(job, max_restarts=0), server)[0] == 137


def test_a_job_that_never_ran(job: Job) -> None:
    status, _, said = play(job, Server([([], ended("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE"))]))
    assert status == 1
    assert "why" in said
    assert "RUNTIME_ENV_SETUP_FAILURE" in said


def test_a_broken_connection_shows_no_line_twice_and_loses_none(job: Job) -> None:
    pieces = ["one\nt", RuntimeError("closed"), "wo\nthr", ConnectionError("reset"), "ee\n"]
    server = Server([(pieces, ended())])
    status, lines, _ = play(job, server)
    assert (status, lines, server.connections) == (0, ["one", "two", "three"], 3)


def test_a_lost_server_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.LogReader, "patience", 0.0)
    monkeypatch.setattr(Server, "get_job_info", lambda self, identity: (_ for _ in ()).throw(ConnectionError("gone")))
    with pytest.raises(ServerLostError, match="gone"):
        module.LogReader(Server([([], ended())], [{}]), "a", print, patience=0.0).follow()


@pytest.mark.parametrize("answer", [True, False, None])
def test_an_interruption_asks_once(job: Job, answer: bool | None) -> None:
    server = Server([(["one\n", KeyboardInterrupt()], ended())])
    status, lines, said = play(job, server, answer)
    assert (status, lines) == (130, ["one"])
    identity = server.submitted[0]["submission_id"]
    assert server.stopped == ([identity] if answer else [])
    left = f"ray job stop --address http://head:8265 {identity}"
    assert (left in said) == (not answer)


def test_a_request_to_end_leaves_the_job(job: Job) -> None:
    class Ended(Server):
        async def tail_job_logs(self, identity: str) -> AsyncIterator[str]:
            yield "one\n"
            signal.raise_signal(signal.SIGTERM)

    server = Ended([([], ended())])
    before = signal.getsignal(signal.SIGTERM)
    assert play(job, server)[0] == 130
    assert server.stopped == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_detached(job: Job) -> None:
    server, text = Server([]), io.StringIO()
    console = Console(file=text, soft_wrap=True)
    assert Supervisor(job, server, "http://head:8265", console).detached() == 0
    assert len(server.submitted) == 1
    assert all(f"ray job {verb}" in text.getvalue() for verb in ("status", "logs --follow", "stop"))


def test_rivals_save_to_the_same_folder_and_live() -> None:
    def found(name: str, status: str, **metadata: str) -> Any:
        return SimpleNamespace(submission_id=name, status=JobStatus(status), metadata=metadata or None)

    server = Server([], jobs=[
        found("a", "RUNNING", checkpoints="/x"), found("b", "FAILED", checkpoints="/x"),
        found("c", "PENDING", checkpoints="/y"), found("d", "RUNNING"),
    ])  # fmt: skip
    assert rivals(server, "/x") == ["a"]
    assert rivals(server, None) == []


def test_addresses() -> None:
    assert address_faults("http://head:8265") == []
    assert "missing" in address_faults(None)[0]
    assert "http://<head>:8265" in address_faults("head:6379")[0]


def test_the_address_that_was_given_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1\b"):
        connect("http://127.0.0.1:1")


def test_ids_are_new_and_plain() -> None:
    first, second = new_identity("ESPO/7B é"), new_identity("ESPO/7B é")
    assert first != second
    assert first.startswith("verl-ext-espo-7b-")

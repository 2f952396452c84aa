"""`verl-ext submit`: what goes where, and the exit status."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from verl_ext.cluster.submission import client
from verl_ext.cluster.submission import job as module
from verl_ext.cluster.submission.command import submit
from verl_ext.cluster.submission.environment import collect
from verl_ext.cluster.submission.job import Job, Prepared, Request
from verl_ext.cluster.submission.supervise import Supervisor


def call(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(submit)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture
def prepared(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing takes seconds, and is tested elsewhere."""

    def prepare(request: Request) -> Prepared:
        return Prepared(dataclasses.replace(job, environment=collect(os.environ, request.env)))

    monkeypatch.setattr(module, "prepare", prepare)


def test_faults_of_all_kinds_before_anything_is_sent(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "connect", lambda address: pytest.fail("connected"))
    monkeypatch.delenv("GONE", raising=False)
    done = call(*arguments, "trainer.default_local_dir=runs", "--no-code", "--env", "GONE", "--address", "head:6379")
    assert done.exit_code == 1
    for part in ("--address head:6379", "trainer.default_local_dir=runs", "--env GONE: not set"):
        assert part in done.stderr
    assert done.stdout == ""


def test_a_configuration_that_does_not_compose() -> None:
    done = call("algo=espoo", "--address", "http://head:8265")
    assert done.exit_code == 1
    assert "did you mean 'espo'?" in done.stderr


@pytest.mark.usefixtures("prepared")
def test_nobody_answers(arguments: list[str]) -> None:
    done = call(*arguments, "--no-code", "--address", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "no job server answers at http://127.0.0.1:1" in done.stderr


@pytest.mark.usefixtures("prepared")
def test_a_job_server_that_asks_for_a_token(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.job_submission
    from ray.exceptions import AuthenticationError

    def refuse(address: str) -> None:
        raise AuthenticationError("Unauthorized: Missing authentication token")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", refuse)
    done = call(*arguments, "--no-code", "--address", "http://head:8265")
    assert done.exit_code == 1
    assert "http://head:8265: it asks for a token; set RAY_AUTH_MODE=token" in done.stderr


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize(("rival", "status"), [("", 7), ("other", 1)])
def test_the_jobs_exit_code(arguments: list[str], rival: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = SimpleNamespace()
    monkeypatch.setattr(client, "connect", lambda address: server)
    monkeypatch.setattr(client, "rivals", lambda server, folder: [rival] if rival else [])
    monkeypatch.setattr(Supervisor, "run", lambda self: 7)
    monkeypatch.setenv("SOME_KEY", "0123456789")
    done = call(*arguments, "--no-code", "--address", "http://head:8265", "--env", "SOME_KEY")
    assert done.exit_code == status
    assert "SOME_KEY=***" in done.stderr
    assert "0123456789" not in done.output
    assert ("other saves to /shared/runs/a too" in done.stderr) == bool(rival)


def test_a_manifest_alone_goes_to_the_standard_output(arguments: list[str], tmp_path: Path) -> None:
    done = call(*arguments, "--code", str(tmp_path), "--render", "kuberay", "--volume", "runs:/shared",
                "--env", "NOT_HERE_KEY", "--image", "i:1", "--max-restarts", "1")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert yaml.safe_load(done.stdout)["kind"] == "RayJob"
    assert "sends no code" in done.stderr
    assert "whatever its reason" in done.stderr


@pytest.mark.usefixtures("prepared")
def test_faults_of_the_renderers(arguments: list[str]) -> None:
    done = call(*arguments, "--no-code", "--render", "kuberay", "--env", "MY_TOKEN=abc")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "would be written into the file" in done.stderr
    done = call(*arguments, "--no-code", "--render", "kuberay")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "lies on none of the volumes" in done.stderr
    assert call(*arguments, "--render", "pbs").exit_code == 2


@pytest.mark.usefixtures("prepared")
def test_a_script(arguments: list[str]) -> None:
    done = call(*arguments, "--no-code", "--render", "slurm", "--sbatch", "--partition=gpu", "--cpus", "12")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n#SBATCH ")
    assert "#SBATCH --partition=gpu\n" in done.stdout
    assert "\ncpus=12\n" in done.stdout

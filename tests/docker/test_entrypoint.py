"""The image's entry point, with stand-ins for the programs that it starts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.docker.dockerfiles import ROOT, SAY

STAND_IN = SAY + 'exit "${STATUS:-0}"\n'
DF = '#!/bin/sh\necho "Filesystem 1M-blocks Used Available Capacity Mounted"\necho "x {size} 0 {free} 0% /"\n'


@dataclass
class Image:
    """A folder that stands for the image; its commands print their names and arguments.

    Root may write everywhere, so what is about permissions runs as nobody.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, text: str = STAND_IN) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def disk(self, size: int, free: int) -> None:
        self.put("df", DF.format(size=size, free=free))

    def run(self, *arguments: str, as_nobody: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "VERL_EXT_ROLE_FILE": str(self.folder / "tmp" / "role"),
            "VERL_EXT_SOURCE": str(self.folder / "source"),
            **environment,
        }
        return subprocess.run(
            [self.folder / "entrypoint.sh", *arguments], env=env, cwd=self.folder / "workspace", capture_output=True,
            text=True, timeout=30, check=False, user=65534 if as_nobody and os.geteuid() == 0 else None,
        )  # fmt: skip


@pytest.fixture
def image() -> Iterator[Image]:
    # Not tmp_path: nobody may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="verl-ext-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("bin", "home", "tmp", "source", "workspace"):
            (folder / part).mkdir()
        (folder / "tmp").chmod(0o777)
        shutil.copy(ROOT / "docker/entrypoint.sh", folder)
        made = Image(folder)
        for program in ("verl-ext", "ray", "python", "bash-like"):
            made.put(program)
        made.disk(size=8192, free=8192)
        yield made


def test_the_scripts_are_valid_bash() -> None:
    for script in (ROOT / "docker").glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
        assert script.stat().st_mode & 0o111, f"{script.name} cannot be executed"


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        (("demo", "--steps", "2"), "verl-ext [demo] [--steps] [2]"),
        (("train", "algo=espo", "a=[b, c]"), "verl-ext [train] [algo=espo] [a=[b, c]]"),
        (("tables", "list"), "verl-ext [tables] [list]"),
        (("doctor",), "verl-ext [doctor]"),
        (("losses", "--json"), "verl-ext [losses] [--json]"),
        (("--version",), "verl-ext [--version]"),
        (("exec", "bash-like", "-c", "x y"), "bash-like [-c] [x y]"),
        (
            ("head", "--num-gpus=0"),
            "ray [start] [--head] [--port=6379] [--dashboard-host=0.0.0.0] [--disable-usage-stats] [--block] "
            "[--num-gpus=0]",
        ),
    ],
)
def test_dispatch(image: Image, arguments: tuple[str, ...], started: str) -> None:
    done = image.run(*arguments)
    assert (done.stdout.strip(), done.returncode) == (started, 0)


@pytest.mark.parametrize("arguments", [(), ("help",), ("-h",), ("--help",)])
def test_help_starts_nothing(image: Image, arguments: tuple[str, ...]) -> None:
    done = image.run(*arguments)
    assert done.returncode == 0
    for command in ("demo", "test", "train", "tables", "doctor", "head", "worker", "exec", "health"):
        assert f"\n  {command}" in done.stdout or f" {command} ..." in done.stdout
    assert not (image.folder / "tmp" / "role").exists()


def test_the_exit_status_is_the_commands(image: Image) -> None:
    assert image.run("train", "x", STATUS="7").returncode == 7
    assert image.run("doctor", STATUS="1").returncode == 1


def test_test_on_the_cpu_is_pytest_without_ray(image: Image) -> None:
    done = image.run("test", "-k", "espo")
    assert done.stdout.startswith("python [-m] [pytest] ")
    assert "[-m] [not ray and not slow]" in done.stdout
    assert done.stdout.rstrip().endswith("[-k] [espo]")


def test_test_on_a_gpu_is_doctor_and_conformance(image: Image) -> None:
    done = image.run("test", "espo", VERL_EXT_STACK="gpu")
    assert done.stdout.splitlines() == ["verl-ext [doctor]", "verl-ext [conformance] [espo]"]
    assert image.run("test", VERL_EXT_STACK="gpu", STATUS="1").stdout.splitlines() == ["verl-ext [doctor]"]


def test_the_demo_is_refused_in_the_gpu_image(image: Image) -> None:
    done = image.run("demo", VERL_EXT_STACK="gpu")
    assert (done.stdout, done.returncode) == ("", 2)
    assert "-cpu" in done.stderr


def test_exec_wants_a_command(image: Image) -> None:
    done = image.run("exec")
    assert done.returncode == 2
    assert "which command" in done.stderr


@pytest.mark.parametrize("address", ["", "head", "head:", ":6379"])
def test_a_worker_wants_an_address(image: Image, address: str) -> None:
    done = image.run("worker", RAY_HEAD=address)
    assert (done.stdout, done.returncode) == ("", 2)
    assert "RAY_HEAD=head:6379" in done.stderr


def test_a_worker_joins_a_head_that_listens(image: Image) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = image.run("worker", "--num-gpus=1", RAY_HEAD=address)
    assert done.stdout.strip() == f"ray [start] [--address={address}] [--disable-usage-stats] [--block] [--num-gpus=1]"


def test_a_worker_gives_up_on_a_head_that_does_not_listen(image: Image) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port
        done = image.run("worker", RAY_HEAD=f"127.0.0.1:{server.getsockname()[1]}", RAY_WAIT="1")
    assert (done.stdout, done.returncode) == ("", 2)
    assert "after 1 s" in done.stderr


@pytest.mark.parametrize(("role", "address"), [("head", "127.0.0.1:6379"), ("worker", "far:6379")])
def test_a_node_of_ray_is_healthy_if_the_head_answers(image: Image, role: str, address: str) -> None:
    (image.folder / "tmp" / "role").write_text(f"{role}\n")
    healthy = image.run("health", RAY_HEAD="far:6379")
    assert (healthy.stdout.strip(), healthy.returncode) == (f"ray [health-check] [--address] [{address}]", 0)
    assert image.run("health", RAY_HEAD="far:6379", STATUS="3").returncode == 1


def test_a_run_is_healthy_while_it_can_write(image: Image) -> None:
    assert image.run("health").returncode == 1  # before the entry point has run
    image.run("train", "x")
    assert image.run("health").returncode == 0
    image.disk(size=8192, free=100)
    done = image.run("health")
    assert done.returncode == 1
    assert "512 MiB" in done.stderr


@pytest.mark.parametrize("command", ["demo", "train", "tables"])
def test_a_folder_that_cannot_be_written_is_named_before_the_run(image: Image, command: str) -> None:
    outputs = image.folder / "workspace" / "outputs"
    outputs.mkdir(mode=0o555)
    done = image.run(command, as_nobody=True)
    assert (done.stdout, done.returncode) == ("", 2)
    assert str(outputs) in done.stderr
    assert "--user" in done.stderr
    outputs.chmod(0o777)
    assert image.run(command, as_nobody=True).returncode == 0


def test_a_user_without_a_home_gets_one(image: Image) -> None:
    image.put("show", '#!/bin/sh\necho "$HOME $USER $LOGNAME"\n')
    done = image.run("exec", "show", as_nobody=True, HOME="/nonexistent")
    assert done.stdout.split() == [str(image.folder / "tmp" / "verl-home"), "verl", "verl"]


def test_little_shared_memory_is_told(image: Image) -> None:
    image.disk(size=64, free=64)
    done = image.run("train", "x")
    assert done.returncode == 0
    assert "64 MiB" in done.stderr
    assert "--shm-size" in done.stderr
    assert image.run("doctor").stderr == ""
    image.disk(size=1024, free=64)
    assert image.run("train", "x").stderr == ""

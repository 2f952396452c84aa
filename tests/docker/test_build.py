"""docker/build.sh with stand-ins for the engines: what it would build, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docker.dockerfiles import ROOT, SAY, project

GIT = '#!/bin/sh\ncase "$1" in rev-parse) echo abc123;; status) printf "%s" "${CHANGES:-}";; esac\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    shutil.copytree(ROOT / "docker", tmp_path / "tree" / "docker")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "tree")
    for name, text in {"docker": SAY, "buildah": SAY, "git": GIT}.items():
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def build(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{tree / 'bin'}:{os.environ['PATH']}", **environment}
    command = ["bash", str(tree / "tree" / "docker" / "build.sh"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


def line(done: subprocess.CompletedProcess[str], start: str) -> str:
    (found,) = [text for text in done.stdout.splitlines() if text.startswith(start)]
    return found


def test_docker_builds_and_tries_the_cpu_image(tree: Path) -> None:
    done = build(tree)
    version = project("version")
    assert done.returncode == 0, done.stderr
    command = line(done, "docker [build]")
    assert f"[--file] [docker/Dockerfile.cpu] [--tag] [verl-ext:{version}-cpu]" in command
    assert f"[VERSION={version}]" in command
    assert "[REVISION=abc123]" in command
    assert "BASE_IMAGE" not in command
    runs = [text for text in done.stdout.splitlines() if text.startswith("docker [run]")]
    assert [run.partition("-cpu] ")[2] for run in runs] == ["[doctor]", "[demo] [--steps] [2]"]


def test_the_gpu_image_is_tried_without_the_demo(tree: Path) -> None:
    done = build(tree, "--stack", "gpu", "--tag", "x:1", "--", "--secret", "id=pip_conf,src=pip.conf")
    command = line(done, "docker [build]")
    assert "[--file] [docker/Dockerfile] [--tag] [x:1]" in command
    assert command.endswith("[--secret] [id=pip_conf,src=pip.conf] [.]")
    assert line(done, "docker [run]").endswith("[x:1] [doctor]")


def test_buildah_keeps_the_health_check_and_is_taken_where_no_daemon_answers(tree: Path) -> None:
    (tree / "bin" / "docker").write_text("#!/bin/sh\nexit 1\n")
    done = build(tree, "--steps", "0")
    assert done.returncode == 0, done.stderr
    assert "[--format] [docker]" in line(done, "buildah [bud]")
    assert line(done, "buildah [run]").endswith("[/opt/verl-ext/docker/entrypoint.sh] [doctor]")


def test_another_base_comes_without_our_digest(tree: Path) -> None:
    command = line(build(tree, "--base", "mine:1"), "docker [build]")
    assert "[BASE_IMAGE=mine:1]" in command
    assert "[BASE_DIGEST=]" in command


@pytest.mark.parametrize(
    ("arguments", "changes", "fault"),
    [
        (("--release",), " M a", "has changes"),
        (("--release", "--base", "mine:1"), "", "with its digest"),
        (("--stack", "tpu"), "", "cpu or gpu"),
        (("--bogus",), "", "unknown option"),
        (("--debootstrap", "--stack", "gpu"), "", "wants CUDA's"),
        (("--debootstrap", "--engine", "docker"), "", "wants --engine buildah"),
    ],
)
def test_what_is_refused(tree: Path, arguments: tuple[str, ...], changes: str, fault: str) -> None:
    done = build(tree, *arguments, CHANGES=changes)
    assert done.returncode == 2
    assert fault in done.stderr
    assert "[build]" not in done.stdout


def test_a_changed_tree_is_told_in_the_label(tree: Path) -> None:
    assert "[REVISION=abc123-dirty]" in line(build(tree, CHANGES=" M a"), "docker [build]")
    assert build(tree, "--release").returncode == 0

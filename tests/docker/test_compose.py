"""The compose files: a head and workers of one image, each with a check of its health."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.docker.dockerfiles import ROOT
from verl_ext.platform.cpu import cpu_env

# The keys of the Compose specification that may stand where ours stand; a slip of the pen is not among them.
TOP = {"name", "services", "volumes", "networks"}
SERVICE = {
    "cap_drop", "command", "depends_on", "deploy", "env_file", "environment", "healthcheck", "hostname", "image",
    "networks", "ports", "security_opt", "shm_size", "ulimits", "volumes",
}  # fmt: skip
HEALTH = {"test", "interval", "timeout", "start_period", "retries"}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker" / name).read_text())


def env(name: str) -> dict[str, str]:
    lines = (ROOT / "docker" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_every_key_is_one_of_the_specification(name: str) -> None:
    file = load(name)
    assert {key for key in file if not key.startswith("x-")} <= TOP
    assert set(file["services"]) == {"head", "worker"}
    for service in file["services"].values():
        assert set(service) <= SERVICE
        assert set(service.get("healthcheck", {})) <= HEALTH


def test_every_service_is_complete() -> None:
    file = load("compose.yaml")
    for name, service in file["services"].items():
        assert service["command"][0] == name
        assert service["healthcheck"]["test"] == ["CMD", "/opt/verl-ext/docker/entrypoint.sh", "health"]
        assert service["image"] == "${VERL_EXT_IMAGE:-verl-ext:0.1.0-${VERL_EXT_STACK:-cpu}}"
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["shm_size"]
        assert not {"privileged", "user"} & set(service)
        volumes = {volume.partition(":")[0] for volume in service["volumes"]}
        assert volumes <= set(file["volumes"])
        assert set(service["networks"]) <= set(file["networks"])


def test_workers_wait_for_a_healthy_head_at_its_name() -> None:
    services = load("compose.yaml")["services"]
    assert services["worker"]["depends_on"] == {"head": {"condition": "service_healthy"}}
    assert services["worker"]["environment"]["RAY_HEAD"] == f"{services['head']['hostname']}:6379"
    assert services["head"]["environment"]["RAY_ADDRESS"] == f"{services['head']['hostname']}:6379"


def test_rays_ports_are_open_to_this_machine_only() -> None:
    services = load("compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_only_one_node_counts_the_gpus() -> None:
    services = load("compose.gpu.yaml")["services"]
    assert "--num-gpus=0" in services["head"]["command"]
    assert services["worker"]["command"] == ["worker"]
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services["head"]


def test_nodes_of_a_cpu_cluster_have_what_the_cpu_platform_wants() -> None:
    wanted = cpu_env({})
    assert wanted.pop("GLOO_SOCKET_IFNAME") == "lo"  # right on one machine; containers are several
    assert env("cpu.env") == {**wanted, "GLOO_SOCKET_IFNAME": "eth0"}
    assert "VERL_PLATFORM" not in env("gpu.env")


def test_no_file_holds_a_secret() -> None:
    for path in (ROOT / "docker").iterdir():
        if path.is_file():
            assert not re.search(r"(?i)(token|password|api_key)\s*[=:]\s*['\"]?\w", path.read_text()), path.name

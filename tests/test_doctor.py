"""The doctor: verdicts, what to do, exit status, JSON, and that it is quick enough to be an image's smoke test."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from verl_ext import doctor
from verl_ext.config_groups import config_dir
from verl_ext.doctor import Finding


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.mark.parametrize(("verdict", "status"), [("ok", 0), ("-", 0), ("differs", 0), ("missing", 1), ("broken", 1)])
def test_the_exit_status(verdict: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("ok", "a", "1", "1"), Finding(verdict, "b", "2", "3", "do this")]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    shown = console()
    assert doctor.doctor(console=shown) == status
    printed = shown.file.getvalue()  # type: ignore[attr-defined]
    assert ("b: 2; tested with 3; do this" in printed) == (verdict not in ("ok", "-"))  # told again below the table


def test_json_holds_every_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("missing", "ray", "not installed", "2.60.0", "install it")]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    assert doctor.doctor(as_json=True) == 1
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "findings": [
            {
                "verdict": "missing",
                "subject": "ray",
                "found": "not installed",
                "tested": "2.60.0",
                "remedy": "install it",
                "part": "installed",
            }
        ],
    }


def test_found_and_tested_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"verl": "0.9.1", "torch": "2.11.0", "vllm": "0.23.0"}
    monkeypatch.setattr(doctor, "_installed", installed.get)
    found = {finding.subject: finding for finding in doctor.version_findings()}
    assert (found["verl"].verdict, found["verl"].text) == ("ok", "0.9.1")
    assert (found["torch"].verdict, found["torch"].text) == ("differs", "2.11.0; tested with 2.13.0+cpu")
    assert found["vllm"].verdict == "differs"
    # 0.24.0 and 0.28.0 are the versions that the tap was written for
    assert (
        found["vllm"].remedy
        == "entropies from rollouts (bypass mode) are refused on it; they are for 0.24.0 and 0.28.0"
    )
    assert found["ray"].verdict == "missing"
    assert found["ray"].text.startswith("not installed; tested with 2.60.0; install the CPU lock")
    installed["vllm"] = "0.24.0+cu129"
    assert {finding.subject: finding.remedy for finding in doctor.version_findings()}["vllm"] == ""
    assert {finding.found for finding in doctor.optional_findings()} == {"not installed"}


def test_the_tested_versions_are_those_of_the_lock(pytestconfig: pytest.Config) -> None:
    lock = (pytestconfig.rootpath / "requirements/cpu.lock").read_text().splitlines()
    pins = {name.lower(): version for name, _, version in (line.partition("==") for line in lock)}
    assert {name: pins[name.lower()] for name in doctor.TESTED} == {n: v[0] for n, v in doctor.TESTED.items()}


def test_a_plugin_that_does_not_import_is_a_finding_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("boom")

    monkeypatch.setattr("verl_ext.doctor.importlib.import_module", fail)
    (plugin,) = doctor.plugin_findings()
    assert (plugin.verdict, plugin.found) == ("broken", "ImportError: boom")
    (torch,) = doctor.machine_findings()
    assert (torch.subject, torch.verdict) == ("torch", "broken")


def test_a_method_that_is_not_in_verls_registry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo import core_algos

    registry = {name: loss for name, loss in core_algos.POLICY_LOSS_REGISTRY.items() if name != "sspo"}
    monkeypatch.setattr(core_algos, "POLICY_LOSS_REGISTRY", registry)
    losses, estimators = doctor.plugin_findings()
    assert losses.verdict == "broken"
    assert losses.remedy.startswith("sspo not in verl's registry")
    assert estimators.verdict == "ok"
    assert "erpo" in estimators.found


@pytest.mark.parametrize(
    ("group", "variable", "value", "verdict"),
    [
        ("vllm.general_plugins", "VLLM_PLUGINS", "other,verl_ext", "ok"),
        ("vllm.general_plugins", "VLLM_PLUGINS", "other", "broken"),
        ("vllm.general_plugins", "VLLM_PLUGINS", "", "broken"),  # vLLM takes it for a list that names nobody
        ("verl.plugins", "VERL_USE_EXTERNAL_PLUGINS", "auto", "ok"),
        ("verl.plugins", "VERL_USE_EXTERNAL_PLUGINS", "none", "broken"),
    ],
)
def test_a_variable_that_leaves_the_plugin_out(
    group: str, variable: str, value: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    found = {finding.subject: finding for finding in doctor.entry_findings()}[group]
    assert found.verdict == verdict
    assert (f"unset {variable}" in found.remedy) == (verdict == "broken")


def test_an_entry_point_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl_ext.doctor.importlib.metadata.entry_points", lambda group: [])
    assert [finding.verdict for finding in doctor.entry_findings()] == ["missing", "missing"]


def test_a_driver_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n")
    monkeypatch.setattr(doctor, "_DRIVER", version)
    cuda = SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0"))
    monkeypatch.setattr("verl_ext.doctor.importlib.import_module", lambda name: torch)
    found = {finding.subject: finding for finding in doctor.machine_findings()}
    assert (found["GPU driver"].verdict, found["GPU driver"].found) == ("broken", "535.104.05")
    torch.version.cuda = None  # a CPU build beside a driver is a choice
    assert {finding.level for finding in doctor.machine_findings()} == {"ok"}


def test_groups_without_options_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = doctor.group_findings()
    assert found.verdict == "ok"
    assert f"experiment {len(list((config_dir() / 'experiment').glob('*.yaml')))}" in found.found
    monkeypatch.setattr("verl_ext.composing.compose.options", lambda group: [] if group == "algo" else ["one"])
    (found,) = doctor.group_findings()
    assert found.verdict == "broken"
    assert "algo 0" in found.found


def test_this_environment_is_fine_and_neither_ray_nor_a_model_is_started() -> None:
    code = (
        "import sys\nfrom verl_ext import doctor\nstatus = doctor.doctor()\nimport ray\n"
        "print('STATUS', status, 'RAY', ray.is_initialized(), 'VLLM', 'vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "STATUS 0 RAY False" in done.stdout, done.stdout
    assert "VLLM False" in done.stdout
    for subject in ("flash-attn", "triton", "vllm.general_plugins", "hydra groups", "GPU driver", "TransferQueue"):
        assert subject in done.stdout

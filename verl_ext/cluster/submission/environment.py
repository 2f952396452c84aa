"""The environment variables of a job: what is set for everybody, taken from this shell, and named by a person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VERLS = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "FLASH_ATTENTION_DETERMINISTIC",
    "NCCL_ALGO",
    "NCCL_DEBUG",
    "NCCL_DETERMINISTIC",
    "PYTHONHASHSEED",
    "TOKENIZERS_PARALLELISM",
    "VERL_FULL_DETERMINISM",
    "VERL_RL_INSIGHT_ENABLE",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_BATCH_INVARIANT",
    "VLLM_DISABLE_COMPILE_CACHE",
    "VLLM_LOGGING_LEVEL",
)
"""What verl's driver looks up in its own environment; the driver of a job does not see the shell that submitted it."""

OURS = (
    "GLOO_SOCKET_IFNAME",
    "HF_DATASETS_OFFLINE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "NCCL_IB_DISABLE",
    "NCCL_IB_GID_INDEX",
    "NCCL_IB_HCA",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "TRANSFORMERS_OFFLINE",
    "VERL_EXT_DATA",
    "VERL_LOGGING_LEVEL",
    "VERL_PLATFORM",
    "VERL_USE_EXTERNAL_MODULES",
    "VERL_USE_EXTERNAL_PLUGINS",
    "VLLM_ATTENTION_BACKEND",
    "VLLM_PLUGINS",
    "WANDB_MODE",
)
"""What verl, vLLM and this package read in workers too, and verl does not pass on to them."""

PLUGIN = "verl_ext.bridge.entry"
MODULES = "VERL_USE_EXTERNAL_MODULES"
MERGE = "RAY_OVERRIDE_JOB_RUNTIME_ENV"

RAYS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", MERGE)
"""What Ray, or this package for it, sets in a job; another value would send the trainer elsewhere."""

HIDDEN = "***"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LEAST_MASKED = 6
"""Shorter values, such as `1`, occur in any log by chance."""


@dataclass(frozen=True)
class Environment:
    """Variables of a job.

    Attributes:
        open: name -> value, may be shown.
        named: name -> value of what a person named; the values are never shown.
        unset: names among the named that this shell does not have, and so are not in `named`.
        faults: what is wrong with the names.
    """

    open: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict, repr=False)
    unset: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        """All of them, what was named winning."""
        return {**self.open, **self.named}

    def lines(self) -> list[str]:
        """For a person; of what was named the names alone."""
        shown = [f"{name}={value}" for name, value in sorted(self.open.items()) if name not in self.named]
        return [*shown, *(f"{name}={HIDDEN}" for name in sorted(self.named))]

    def mask(self, text: str) -> str:
        """A text without the values that were named."""
        for value in sorted(self.named.values(), key=len, reverse=True):
            if len(value) >= _LEAST_MASKED:
                text = text.replace(value, HIDDEN)
        return text


def secret(name: str) -> bool:
    """Whether a variable's name says that its value is nobody's business.

    Example:
        >>> [name for name in ("WANDB_API_KEY", "HF_TOKEN", "NCCL_DEBUG") if secret(name)]
        ['WANDB_API_KEY', 'HF_TOKEN']
    """
    return bool(_SECRET.search(name))


def collect(
    shell: Mapping[str, str], named: Sequence[str] = (), platform: Mapping[str, str] | None = None
) -> Environment:
    """The environment of a job.

    Three variables are set for every job. ``VERL_USE_EXTERNAL_MODULES`` makes verl import the plugin by name, so that
    a node without it fails at once; an entry point that is missing is passed over in silence.
    ``RAY_OVERRIDE_JOB_RUNTIME_ENV`` because Ray refuses a job and a ``ray.init`` that name the same variable, as verl's
    does. ``HYDRA_FULL_ERROR`` shows the cause of an error and not only that there was one.

    Args:
        shell: the environment of whoever submits.
        named: ``NAME`` for a variable of the shell, or ``NAME=value``.
        platform: what the configuration's platform needs; values of the shell win.

    Example:
        >>> found = collect({"NCCL_DEBUG": "INFO", "WANDB_API_KEY": "abcdef", "HOME": "/root"}, ["WANDB_API_KEY"])
        >>> found.lines()[1], found.lines()[-1]
        ('NCCL_DEBUG=INFO', 'WANDB_API_KEY=***')
    """
    asked = [item.partition("=") for item in named]
    given = {name: value for name, sign, value in asked if sign}
    taken = {name: shell[name] for name, sign, _ in asked if not sign and name in shell}
    unset = tuple(name for name, sign, _ in asked if not sign and name not in shell)
    carried = {name: shell[name] for name in (*VERLS, *OURS) if shell.get(name)}
    always = {MODULES: modules({**shell, **given}.get(MODULES, "")), MERGE: "1", "HYDRA_FULL_ERROR": "1"}
    for found in (given, taken):
        found.pop(MODULES, None)
    faults = [f"--env {name}: no name of a variable" for name, _, _ in asked if not _NAME.fullmatch(name)]
    faults += [f"--env {name}: Ray sets it in every job" for name, _, _ in asked if name in RAYS]
    return Environment({**(platform or {}), **carried, **always}, {**given, **taken}, unset, tuple(faults))


def modules(others: str) -> str:
    """The modules that verl imports in every process: the plugin, and what was asked for besides.

    Example:
        >>> modules("mine, verl_ext.bridge.entry")
        'verl_ext.bridge.entry,mine'
    """
    return ",".join(dict.fromkeys([PLUGIN, *(name.strip() for name in others.split(",") if name.strip())]))

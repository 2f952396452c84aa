"""Run a Python program in a process of its own, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# What a shell or an earlier test may have set, and what would change which platform or plugin is loaded.
PREFIXES = ("VERL_", "VLLM_", "RAY_", "PYTHONPATH", "MASTER_", "CUDA_VISIBLE")


@dataclass(frozen=True)
class Finished:
    """How a program ended. `output` is stdout and stderr together."""

    returncode: int
    output: str

    def result(self) -> Any:
        """The JSON after the word RESULT; the whole output is the message where there is none."""
        assert self.returncode == 0, self.output[-6000:]
        (line,) = [line for line in self.output.splitlines() if line.startswith("RESULT ")]
        return json.loads(line.removeprefix("RESULT "))


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what verl, vLLM and Ray read, and with `changes`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIXES)}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **changes}


def start(*arguments: str | Path, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        env=environment(**env),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], limit_s: float) -> Finished:
    """Wait for the end; after `limit_s` seconds the program and its children are killed: a failure."""
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"still running after {limit_s:.0f} s:\n{output[-4000:]}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Finished(process.returncode, output)


def run(*arguments: str | Path, limit_s: float = 120, cwd: Path | None = None, **env: str) -> Finished:
    return finish(start(*arguments, cwd=cwd, **env), limit_s)

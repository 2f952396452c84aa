"""Checks that end in every way there is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from verl_ext.gpu_check.outcome import CheckError, SkipError


def fine(device: str) -> dict[str, Any]:
    return {"device": device, "answer": 42}


def wrong(device: str) -> dict[str, Any]:
    raise CheckError("found 2, wanted 1")


def lacking(device: str) -> dict[str, Any]:
    raise SkipError("no such chip")


def raising(device: str) -> dict[str, Any]:
    return {"never": 1 / 0}


def killed(device: str) -> dict[str, Any]:
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def leaving(device: str) -> dict[str, Any]:
    print("the last words", flush=True)
    os._exit(3)


def hanging(device: str) -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("child", process.pid, flush=True)
    time.sleep(600)
    return {}

"""Programs in which Triton kernels run on the CPU, by Triton's interpreter.

Whether a kernel is interpreted is decided when it is decorated, so each program is a process of its own, with
TRITON_INTERPRET=1 from the start. What is run is the kernel's own source, operation by operation, in numpy; how a
GPU's compiler schedules it is not part of this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.platform import programs

HERE = Path(__file__).resolve().parent


def run(triton: Path, program: str, *arguments: str | Path) -> Any:
    """What `program`, a file beside this one, printed after the word RESULT; Triton is imported from `triton`."""
    env = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(triton)}
    return programs.run(HERE / program, *arguments, limit_s=300, **env).result()

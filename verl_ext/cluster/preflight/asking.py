"""A child process that is asked something, and is waited for no longer than there is time.

Whatever hangs inside Ray, in an import or on a network drive, and whatever ends the process from C++, hits the child
alone. What it has written until then counts.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from verl_ext.process import ProcessFamily, child_environment

NOT_ANSWERED = "not answered"
"""Stands wherever the time was over before there was an answer."""
_POLL_S = 0.05
_END_S = 2.0


class Child:
    """``python -m MODULE REQUEST ANSWER``: a module that reads one file and writes the other, once or several times.

    To be used with ``with``; at its end the process and all that it started have ended.

    Args:
        module: its name.
        request: the content of the file that it reads.
    """

    def __init__(self, module: str, request: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="verl_ext-preflight-")
        asked, self._answer, self._log = (Path(self._folder.name, name) for name in ("request", "answer", "log"))
        asked.write_bytes(request)
        command = [sys.executable, "-m", module, str(asked), str(self._answer)]
        self._process = ProcessFamily(command, child_environment({}), self._log)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # In the kernel's hands, for instance on a drive that is gone, a process cannot be ended; it is left to them.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.end(_END_S)
        self._folder.cleanup()

    @property
    def latest(self) -> bytes | None:
        """What it has written last; None before that."""
        return self._answer.read_bytes() if self._answer.is_file() else None

    def wait(self, deadline: float, first: bool = False) -> bytes | None:
        """The last answer, once the process has ended or the time is over.

        Args:
            deadline: of ``time.monotonic``.
            first: the first answer is enough.
        """
        while self._process.poll() is None and time.monotonic() < deadline:
            if first and self._answer.is_file():
                break
            time.sleep(_POLL_S)
        return self.latest

    def ending(self) -> str:
        """Why there is no answer, or no more of it."""
        status = self._process.poll()
        if status is None:
            return f"{NOT_ANSWERED} in time"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"the probing process ended with status {status}: {lines[-1] if lines else 'without a word'}"


def publish(answer: str, content: bytes) -> None:
    """In the child: replace the answer by another one, in one piece."""
    unfinished = Path(f"{answer}.part")
    unfinished.write_bytes(content)
    unfinished.replace(answer)

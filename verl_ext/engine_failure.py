"""What is said when vLLM, started in a process of its own, failed: the cause, and where its log is kept."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What needs no log to be understood: the message says it all.
EXPLAINED = ("UnsupportedVLLMError", "UntaggedRankError", "NoVLLMError")
TAIL = 12
NAMED_ERROR = re.compile(r"\b[A-Z]\w*(Error|Exception): ")
PROCESSES = "VLLM_ENABLE_V1_MULTIPROCESSING"


class EngineError(RuntimeError):
    """The engine gave no answer. `untapped`: it ran, and answered without entropies."""

    def __init__(self, message: str, untapped: bool = False) -> None:
        super().__init__(message)
        self.untapped = untapped


def failure(found: Mapping[str, Any], status: int | None, log: Path) -> EngineError:
    """The cause, and where the log is kept, unless the message is one of ours.

    Args:
        found: `kind`, `message` and `traceback` of the exception that the process left; empty if it left none.
        status: its exit status.
        log: its output; a copy is kept.
    """
    kind = found.get("kind")
    if kind in EXPLAINED:
        return EngineError(found["message"], untapped=kind == "UntaggedRankError")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    with tempfile.NamedTemporaryFile("w", prefix="verl-ext-engine-", suffix=".log", delete=False) as kept:
        kept.write("\n".join([*lines, found.get("traceback", "")]))
    cause = f"{kind}: {found['message']}" if kind else f"the process ended with status {status} and without an answer"
    tail = lines[-TAIL:] if kind is None else []
    if kind and os.environ.get(PROCESSES, "0") != "0":
        # What was caught then only reports the end of another process, whose own error is in the log.
        tail = list(dict.fromkeys(filter(NAMED_ERROR.search, lines)))[:TAIL]
    return EngineError("\n  ".join([cause, f"The engine's log is kept in {kept.name}", *tail]))

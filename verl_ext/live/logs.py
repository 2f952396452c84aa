"""Find in a trainer's log what a person wants to know: the phase of the start-up, the steps, and why it failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from verl_ext.run_report.console_log import ACTOR, ANSI, plain

STEP_LINES = "VERL_EXT_STEP_LINES"
"""Set for a trainer whose log is read here: a step is written to it also where `trainer.logger` lacks console."""

_TOTAL = re.compile(r"Total training steps: (\d+)")
_TRACEBACK = "Traceback (most recent call last)"
_EXCEPTION = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?:\([\w.]+\))?(?::\s*(?P<text>.*))?$")
# Wrappers that Ray puts around the error of a worker, and what its death does to those that wait for it.
_WRAPPERS = ("RayTaskError", "ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerCrashedError")
_ENDS = ("Set the environment variable HYDRA_FULL_ERROR", "During handling of", "The above exception")
_LONGEST = 40
_NOISE = re.compile(r"^(?:\S+ )?(?:DEBUG|INFO|WARNING)\b|^\s*$|FutureWarning|UserWarning|DeprecationWarning")

STARTUP: tuple[tuple[str, str], ...] = (
    (r"Started a local Ray instance|Connecting to existing Ray", "starting Ray's actors"),
    (r"TaskRunner\w* pid=", "starting the trainer"),
    (r"TransferQueueController|SimpleStorageUnit", "starting TransferQueue"),
    (r"WorkerDict pid=", "building the FSDP worker"),
    (r"RewardLoopWorker pid=", "starting the reward workers"),
    (r"vLLMHttpServer pid=|EngineCore", "starting vLLM"),
    (r"GlobalRequestLoadBalancer|AgentLoopWorker\w* pid=", "starting the agent loop"),
)
"""Patterns of the log that say how far a start-up has come, in order, with the words for the phase."""
_STARTUP = tuple((re.compile(pattern), words) for pattern, words in STARTUP)


def startup_phase(text: str, known: int = -1) -> int:
    """Index into `STARTUP` of the last phase that `text` shows, never before `known`; -1 if none."""
    return max([known, *(i for i, (pattern, _) in enumerate(_STARTUP) if pattern.search(text))])


def total_steps(line: str) -> int | None:
    """The number of steps of the whole training, from the line in which verl says it; None of any other line."""
    match = _TOTAL.search(line)
    return int(match[1]) if match else None


def failure(log: Path) -> list[str]:
    """`error_excerpt` of a file."""
    return error_excerpt(log.read_text(encoding="utf-8", errors="replace").splitlines())


def error_excerpt(lines: Iterable[str], most: int = 3, tail: int = 15) -> list[str]:
    """The lines of a failed trainer's log that say what went wrong.

    The messages of the last `most` different exceptions, with all their lines; wrappers of Ray only where
    there is nothing else. A log without a traceback gives its last `tail` lines that are not chatter.
    """
    lines = [ANSI.sub("", line.rstrip()) for line in lines]
    found: dict[str, list[str]] = {}
    for block in _exceptions(lines):
        key = "\n".join(block)
        found.pop(key, None)
        found[key] = block
    blocks = list(found.values())
    telling = [block for block in blocks if not any(wrapper in block[0] for wrapper in _WRAPPERS)]
    chosen = (telling or blocks)[-most:]
    if chosen:
        return [line for block in chosen for line in block]
    return [text for line in lines if not _NOISE.search(text := plain(line))][-tail:]


def _exceptions(lines: list[str]) -> list[list[str]]:
    """The messages that close the tracebacks of a log, in the order in which they end.

    Ray mixes the lines of all its processes; each process is read by itself.
    """
    streams: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(lines):
        prefix = match[0] if (match := ACTOR.match(line)) else ""
        streams.setdefault(prefix, []).append((number, plain(line)))
    blocks = [block for stream in streams.values() for block in _of_one_process(stream)]
    return [block for _, block in sorted(blocks, key=lambda item: item[0])]


def _of_one_process(stream: list[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """(line number, message) of every exception in the lines of one process."""
    inside = False
    block: list[str] = []
    start = 0
    for number, line in stream:
        if block and line and not line.startswith((_TRACEBACK, *_ENDS)) and len(block) < _LONGEST:
            block.append(line)
            continue
        if block:
            yield start, block
            block = []
        if line.startswith((_TRACEBACK, "ray::")):
            inside = True
        elif inside and line and not line[0].isspace():
            match = _EXCEPTION.match(line)
            if match and "RayTaskError" in match["name"]:
                continue  # the remote frames and the real message follow
            inside = False
            block, start = ([line], number) if match else ([], 0)
    if block:
        yield start, block

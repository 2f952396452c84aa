"""A reader for Dockerfiles, and the rules that ours keep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAY = '#!/bin/sh\nprintf "%s" "$(basename "$0")"\nfor a in "$@"; do printf " [%s]" "$a"; done\necho\n'
"""A stand-in for a program: prints its name and its arguments, each in brackets."""
KNOWN = frozenset(
    {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}
)
"""What ours use. ADD is not among them: it fetches addresses and unpacks archives unasked."""

_SECRET_NAME = re.compile(r"(?i)token|password|passwd|secret|credential|api_?key")
_CREDENTIALS = re.compile(r"://[^/\s\"']+:[^/\s\"']+@")
_PAIR = re.compile(r'([\w./-]+)=("(?:[^"\\]|\\.)*"|\S*)')
_PINNED = re.compile(r"@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continuation lines joined; `line` is where it begins."""

    name: str
    value: str
    line: int

    def pairs(self) -> dict[str, str]:
        """Of an ENV, LABEL or ARG: names and values, quotes taken off."""
        return {key: value.strip('"') for key, value in _PAIR.findall(self.value)}


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, comments left out."""
    return list(_instructions(text))


def _instructions(text: str) -> Iterator[Instruction]:
    parts: list[str] = []
    begun = 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("#") or (not line and not parts):
            continue
        begun = begun if parts else number
        parts.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            name, _, value = " ".join(parts).partition(" ")
            yield Instruction(name.upper(), value.strip(), begun)
            parts = []
    if parts:
        raise ValueError(f"line {begun}: the last instruction goes on after the end of the file")


def arguments(instructions: list[Instruction]) -> dict[str, str]:
    """Every ARG with its default; one without a default is the empty string."""
    found: dict[str, str] = {}
    for item in instructions:
        if item.name == "ARG":
            found.update(item.pairs() or {item.value: ""})
    return found


def labels(instructions: list[Instruction]) -> dict[str, str]:
    return {key: value for item in instructions if item.name == "LABEL" for key, value in item.pairs().items()}


def bases(instructions: list[Instruction]) -> list[str]:
    """The images of the FROM lines, arguments filled in; stages of the file itself are left out."""
    values, stages, found = arguments(instructions), set[str](), []
    for item in instructions:
        if item.name != "FROM":
            continue
        image, _, stage = item.value.partition(" AS ")
        if image not in stages:
            found.append(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], image))
        stages.add(stage)
    return found


def faults(text: str) -> list[str]:
    """What of the rules a Dockerfile breaks, all of it."""
    instructions = parse(text)
    names = [item.name for item in instructions]
    found = [f"line {item.line}: {item.name} is not used here" for item in instructions if item.name not in KNOWN]
    found += [f"{base}: no tag, or no digest" for base in bases(instructions) if not _is_pinned(base)]
    found += _user_faults(instructions)
    found += _secret_faults(instructions)
    if "HEALTHCHECK" not in names:
        found.append("no HEALTHCHECK")
    for item in instructions:
        if item.name in {"ENTRYPOINT", "CMD"} and not _is_json_list(item.value):
            found.append(f"line {item.line}: {item.name} goes through a shell, which swallows signals")
        if item.name == "RUN" and "apt-get install" in item.value and "rm -rf /var/lib/apt/lists/*" not in item.value:
            found.append(f"line {item.line}: the lists of apt stay in the layer")
    return found


def _user_faults(instructions: list[Instruction]) -> list[str]:
    users = [(index, item.value) for index, item in enumerate(instructions) if item.name == "USER"]
    if not users or users[-1][1].split(":")[0] in {"root", "0"}:
        return ["the image runs as root"]
    smoke = [index for index, item in enumerate(instructions) if item.name == "RUN" and "verl-ext doctor" in item.value]
    return [] if smoke and smoke[-1] > users[-1][0] else ["no `verl-ext doctor` as the user that the image runs as"]


def _secret_faults(instructions: list[Instruction]) -> list[str]:
    found = []
    for item in instructions:
        named = [name for name in item.pairs() if item.name in {"ARG", "ENV", "LABEL"} and _SECRET_NAME.search(name)]
        found += [f"line {item.line}: {item.name} {name} would be recorded in the image" for name in named]
        if _CREDENTIALS.search(item.value):
            found.append(f"line {item.line}: a password in an address")
        if item.name == "COPY" and re.search(r"\.env\b|\.pem\b|\.netrc|pip\.conf|id_rsa", item.value):
            found.append(f"line {item.line}: copies a secret into a layer")
    return found


def _is_pinned(base: str) -> bool:
    name, _, _ = base.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return tag not in {"", "latest"} and _PINNED.search(base) is not None


def _is_json_list(value: str) -> bool:
    try:
        return isinstance(json.loads(value), list)
    except json.JSONDecodeError:
        return False


def pins(lock: Path) -> dict[str, str]:
    """Names and versions of a lock."""
    lines = [line for line in lock.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def project(field: str) -> str:
    """A field of pyproject.toml's [project] that is one line of text."""
    found = re.search(rf'(?m)^{field} = "(.*)"$', (ROOT / "pyproject.toml").read_text())
    assert found is not None, field
    return found[1]

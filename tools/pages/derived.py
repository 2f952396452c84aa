"""The derived files of the repository and what each must hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tools.pages import compatibility, data, methods, metrics, presets
from verl_ext import catalogue

ROOT = Path(__file__).resolve().parents[2]
PAGES: Mapping[str, Callable[[], str]] = {
    "verl_ext/catalogue.json": lambda: json.dumps(catalogue.entries(), indent=1) + "\n",
    "docs/compatibility.md": compatibility.render,
    "docs/data.md": lambda: data.renewed((ROOT / "docs/data.md").read_text("utf-8")),
    "docs/methods/README.md": methods.render,
    "docs/metrics.md": metrics.render,
}
"""File -> its whole content, of what the code says now."""


def contents() -> Iterator[tuple[str, str]]:
    """Each derived file with its content, the presets of methods that have none by hand included."""
    yield from ((path, render()) for path, render in PAGES.items())
    yield from presets.contents(ROOT / "configs/algo")


def differing() -> dict[str, str]:
    """The files that do not hold their content -> that content; a file that is not there differs."""
    return {path: text for path, text in contents() if not is_kept(ROOT / path, text)}


def is_kept(file: Path, text: str) -> bool:
    """Whether the file holds the text."""
    return file.is_file() and file.read_text("utf-8") == text


def run(check: bool) -> int:
    """Write what differs, or only name it; the exit status."""
    found = differing()
    for path, text in found.items():
        if not check:
            (ROOT / path).write_text(text, "utf-8")
        print(f"{path}: {'not what the code says, run: make docs' if check else 'written'}")
    faults = methods.faults()
    print(*faults, sep="\n", end="\n" * bool(faults))
    return int(bool(faults or (check and found)))

"""Every command of ours that a text prints: found in the package's strings and in the pages, never listed by hand."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GAP = "GAP"
"""What stands for a part of an f-string that is filled in when the text is printed."""

_FENCE = re.compile(r"^ *```.*?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"``(.+?)``|`([^`]+)`", re.DOTALL)
_OVERRIDE = re.compile(
    r"(?<![\w.+~/:-])(?:\+{0,2}[a-z_]\w*(?:\.\w+)+|\+[a-z_]\w*)"  # a dotted key, or any with a plus
    r"=[^\s`\"';,)|]+"
)
_NAMED = re.compile(r"verl-ext +([\w.-]+)(?: +([\w.-]+))?")
_ENDS = frozenset({"&&", "||", "|", ">", ";"})


@dataclass(frozen=True)
class Text:
    """A text that is printed.

    Attributes:
        place: where it stands.
        text: what is printed.
        block: whether it is a block of code, whose lines are commands or output.
    """

    place: str
    text: str
    block: bool = False


def texts() -> Iterator[Text]:
    """Every string of the package, and every span and block of code of the pages."""
    for file in sorted((ROOT / "verl_ext").rglob("*.py")):
        yield from _strings(file)
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield from marked(str(file.relative_to(ROOT)), file.read_text(encoding="utf-8"))


def _strings(file: Path) -> Iterator[Text]:
    inside: set[ast.AST] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        place = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.JoinedStr):
            inside.update(node.values)
            yield Text(place, "".join(str(v.value) if isinstance(v, ast.Constant) else GAP for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield Text(place, node.value)


def marked(place: str, page: str) -> Iterator[Text]:
    """The code of a page in Markdown."""
    for block in _FENCE.finditer(page):
        yield Text(place, re.sub(r"\\\n\s*", "", block[1]), block=True)
    for span in _SPAN.finditer(_FENCE.sub("", page)):
        yield Text(place, " ".join((span[1] or span[2]).split()))


def commands(text: Text, program: str) -> Iterator[list[str]]:
    """The arguments of a program wherever a line of code, or a span of it, calls it."""
    spans = [" ".join((m[1] or m[2]).split()) for m in _SPAN.finditer(text.text)]
    for line in [*spans, *text.text.splitlines()]:
        yield from _calls(line.strip().removeprefix("$ "), program)


def _calls(line: str, program: str) -> Iterator[list[str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose with an apostrophe
        return
    while words:
        end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
        call, words = words[:end], words[end + 1 :]
        while call and re.match(r"[A-Z_]+=", call[0]):
            call = call[1:]
        if call[: len(program.split())] == program.split() or (call and call[0].endswith(f"/bin/{program}")):
            yield call[len(program.split()) :]


def mentions(text: Text) -> Iterator[tuple[str, str]]:
    """The one or two words after ``verl-ext``, in prose as well."""
    for match in _NAMED.finditer(re.sub(r"\s*\n\s*", " ", text.text)):
        yield match[1], match[2] or ""


def overrides(text: Text) -> Iterator[str]:
    """What looks like an argument for Hydra: dotted keys with a value, and anything with a plus."""
    for match in _OVERRIDE.finditer(text.text):
        yield match[0].rstrip(".:")

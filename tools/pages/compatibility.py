"""docs/compatibility.md, made from the entries: ``make docs``."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tools.pages.compatibility_entries import COLUMNS, FEATURES, LOSSES, Cell, Feature

HEAD = """# What of veRL works with these methods

Each feature of veRL (version 0.9.1, file names below are its own) against each loss, the estimators and the entropies
of the rollout. This page is made from `tools/pages/compatibility_entries.py`; `tests/test_compatibility.py` checks
that it is the same, that each named test exists, that each refusal happens, and that nothing else is refused.

| word | meaning |
|---|---|
| tested | a test fails if it stops working; it is named below |
| refused | the run ends before Ray starts, with the sentence below, among all other faults of the configuration |
| unrun | nobody has run it; the line of veRL that was read is named below |
| - | the feature acts elsewhere, in the line of veRL that is named below |

No test here ran on a GPU. What a GPU is needed for is in [gpu-check.md](gpu-check.md).
"""
FOOT = """
## Why settings are refused

veRL has one actor configuration for all losses, and a loss reads what it knows. A key that it does not know changes
nothing, and nothing says so. `verl_ext.checks.methods.ignored` finds the keys that a loss or an estimator of ours
would not read and that differ from veRL's defaults. A run that names none of our methods is left alone, but for what
is silently wrong or inert with any method (`silent.py`).
"""
WORDS = {"apart": "-"}


def render() -> str:
    """The page."""
    titles = [name if name in LOSSES else name.replace(" ", "&nbsp;") for name in COLUMNS]
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for feature in FEATURES:
        words = [WORDS.get(cell.kind, cell.kind) for cell in (cell_of(feature, column) for column in COLUMNS)]
        lines.append(f"| [{feature.title}](#{anchor(feature.title)}) | {' | '.join(words)} |")
    return "\n".join([HEAD, *lines, *(part for feature in FEATURES for part in details(feature)), FOOT])


def cell_of(feature: Feature, column: str) -> Cell:
    """The cell of a column."""
    (cell,) = [cell for cell in feature.cells if column in cell.columns]
    return cell


def details(feature: Feature) -> list[str]:
    """What stands below the table about a feature."""
    lines = ["", f"## {feature.title[:1].upper()}{feature.title[1:]}", "", f"`{shown(feature)}`", ""]
    for cell in feature.cells:
        who = "all" if cell.columns == COLUMNS else "all losses" if cell.columns == LOSSES else ", ".join(cell.columns)
        lines.append(f"- {who}: {'elsewhere' if cell.kind == 'apart' else cell.kind}, {because(cell)}")
    return [*lines, "", feature.note] if feature.note else lines


def shown(feature: Feature) -> str:
    """The settings as they are typed."""
    typed = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in feature.settings.items()
    ]
    return feature.keys or " ".join(typed)


def because(cell: Cell) -> str:
    """The evidence of a cell."""
    if cell.kind == "refused":
        return f'"... {cell.evidence[0]} ..."'
    if cell.kind == "tested":
        return ", ".join(f"`{test}`" for test in cell.evidence)
    return ", ".join(f"`verl/{file}:{line}`" for file, line in map(located, cell.evidence))


def located(where: str) -> tuple[str, int]:
    """File of verl, and the first line in it that has the text.

    Raises:
        ValueError: verl has no such line any more, so that the cell has to be read again.
    """
    file, _, text = where.partition(": ")
    for number, line in enumerate(source(file), start=1):
        if text in line:
            return file, number
    raise ValueError(f"verl/{file} has no line with {text!r}: read it again, and correct the entry")


@cache
def source(file: str) -> list[str]:
    """The lines of one of verl's files."""
    spec = find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("verl is not installed here")
    return (Path(next(iter(spec.submodule_search_locations))) / file).read_text(encoding="utf-8").splitlines()


def anchor(title: str) -> str:
    """A heading's address on the page."""
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")

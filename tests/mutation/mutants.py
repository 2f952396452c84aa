"""Changes of the code that some test has to notice, and how one is found and put into a tree.

A mutant names what it changes by symbol and text, not by file, so that it survives a move.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "verl_ext"


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        symbol: a function, class or `Class.method` of the package.
        old, new: text within the symbol, and what stands there instead.
        tests: pytest's arguments for the tests that should notice it; every test without Ray if empty.
    """

    symbol: str
    old: str
    new: str
    tests: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.symbol}: {self.old!r} -> {self.new!r}"


def mutant(symbol: str, old: str, new: str, *tests: str) -> Mutant:
    """A mutant; each of `tests` is a file below tests/, or a test in one."""
    return Mutant(symbol, old, new, tuple(f"tests/{test}" for test in tests))


MUTANTS = (
    mutant("seal", "os.fsync(file.fileno())", "pass", "checkpoint/test_manifest.py"),
    mutant("check", ".st_size) != entry.size", ".st_size) < entry.size", "checkpoint/test_manifest.py"),
    mutant("discard", "(folder / UNFINISHED).touch()", "pass", "checkpoint/test_layout.py"),
    mutant("Saving.begin", " or frees_first:", ":", "checkpoint/test_space.py"),
    mutant("says_full", "(errno.ENOSPC, errno.EDQUOT)", "(errno.ENOSPC,)", "checkpoint/test_space.py"),
    mutant("says_full", " or seen.__context__", "", "checkpoint/test_space.py"),
    mutant("free", "f_bavail", "f_bfree", "checkpoint/test_space.py"),
    mutant("tensor_bytes", " *module.buffers(),", "", "checkpoint/test_space.py"),
    mutant("collect", "if adaptive(kl_controller)", "if kl_controller", "checkpoint/test_driver_state.py"),
    mutant("restore", "if adaptive(kl_controller)", "if kl_controller", "checkpoint/test_driver_state.py"),
    mutant(
        "Guards.before_update",
        " and trainer.local_trigger_step == 0",
        "",
        "guards/test_bridge.py::test_the_streak_of_low_entropies_counts_steps_and_not_their_parts",
    ),
    mutant(
        "inspect",
        "fields[entropies][mask]",
        "fields[entropies]",
        "guards/test_bridge.py::test_entropies_of_tokens_that_do_not_count_are_left_out_of_the_mean",
    ),
    mutant("_mean_ratio", 'token_ratio == "old"', "False", "losses/test_espo.py::test_golden_old_ratio"),
    mutant(
        "_Segments.__init__",
        "((self.slots != ids) & mask)",
        "(self.slots != ids)",
        "losses/test_sspo.py::test_ids_behind_the_mask_cost_no_second_evaluation",
    ),
    mutant(
        "obstacles",
        "not in (-1, 0)",
        "not in (-1, 0, 1)",
        "rollout/test_source.py::test_entropies_of_another_distribution_are_not_watched",
    ),
    mutant("hyper", "default_factory=lambda: list(default)", "default_factory=lambda: default", "test_hyper.py"),
    mutant(
        "_graded",
        "isinstance(result.value, bool)",
        "isinstance(result.value, int)",
        "rewards/test_verifiers.py::test_a_number_is_no_verdict",
    ),
    mutant(
        "Cell.verdict",
        "self.published < self.obtained.low",
        "self.published <= self.obtained.low",
        "tables/test_report.py",
    ),
    mutant(
        "Cell.verdict",
        "self.published > self.obtained.high",
        "self.published >= self.obtained.high",
        "tables/test_report.py",
    ),
)


def places(mutant: Mutant, root: Path) -> list[tuple[Path, int]]:
    """Every file and offset at which the old text stands within a definition of the symbol, in a tree."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if mutant.old not in source:
            continue
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for node in _definitions(ast.parse(source), mutant.symbol.split(".")):
            first, last = starts[node.lineno - 1], starts[node.end_lineno or node.lineno]
            at = source.find(mutant.old, first, last)
            while at >= 0:
                found.append((path, at))
                at = source.find(mutant.old, at + 1, last)
    return found


def _definitions(tree: ast.AST, names: list[str]) -> Iterator[ast.stmt]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == names[0]:
            if len(names) == 1:
                yield node
            else:
                yield from _definitions(node, names[1:])


def apply(mutant: Mutant, root: Path) -> tuple[Path, str]:
    """Put a mutant into a tree; returns the file and what it held.

    Raises:
        LookupError: it fits nowhere, or at several places.
    """
    found = places(mutant, root)
    if len(found) != 1:
        where = ", ".join(str(path.relative_to(root)) for path, _ in found) or "nowhere"
        raise LookupError(f"{mutant} must fit at one place, and fits {where}")
    ((path, at),) = found
    source = path.read_text(encoding="utf-8")
    path.write_text(source[:at] + mutant.new + source[at + len(mutant.old) :], encoding="utf-8")
    return path, source

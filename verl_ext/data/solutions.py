r"""Solutions of a training set's problems, for supervised training: its own, or another source's.

SimpleRL's and Dr. GRPO's rows of MATH hold answers only. MATH itself has the solutions, and the text of a problem,
white space and Unicode composition normalised, says which is whose.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from verl_ext.data.faults import Faults, Place
from verl_ext.data.problems import Problem, problem_of, snippet, solution_of
from verl_ext.data.sources import Hub, Opened, open_hub, open_local
from verl_ext.data.text import canonical


def add(
    problems: Sequence[Problem], hub: Hub, local: Path | None, faults: Faults, keep: Collection[str] = ()
) -> dict[str, Any]:
    r"""Give each problem its solution: from `local`, else its own row's, else the hub's.

    Args:
        problems: are changed.
        hub: that has the solutions, if the problems' own source has no such column.
        local: a file or folder in place of both.
        faults: is added to, for each problem without a solution, or whose solution has no closed ``\boxed{}``.
        keep: keys of problems whose solutions are known to have none.

    Returns:
        For the manifest: where the solutions are from.

    Raises:
        SourceError: if the source of the solutions cannot be had or read.
    """
    if local is None and any(problem.solution is not None for problem in problems):
        origin: dict[str, Any] = {"source": "the same rows", "files": [], "revision": None}
    else:
        opened = open_hub(hub) if local is None else open_local(local, hub.files)
        origin = {"source": opened.name, "files": [file.name for file in opened.files], "revision": opened.revision}
        found = _by_text(opened, faults)
        for problem in problems:
            problem.solution = found.get(canonical(problem.text))
    _check(problems, faults, keep)
    return origin


def _by_text(opened: Opened, faults: Faults) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in opened.rows():
        problem, solution = problem_of(row), solution_of(row)
        if problem is not None and solution is not None:
            # MATH has a few problems twice; one solution is enough.
            found[canonical(problem)] = found.get(canonical(problem)) or solution
    if not found:
        faults.add(f"{opened.name} has no rows with the columns problem and solution")
    return found


def _check(problems: Sequence[Problem], faults: Faults, keep: Collection[str]) -> None:
    from verl_ext.rewards.answer_text import find_boxes

    for problem in problems:
        if problem.solution is None:
            faults.add("there is no solution of this problem", Place(problem.row, problem.key, snippet(problem.text)))
        elif not problem.solution:
            faults.add("the solution is empty", Place(problem.row, problem.key, snippet(problem.text)))
        elif not find_boxes(problem.solution).last and problem.key not in keep:
            what = r"the solution has no \boxed{...}, or its last one is empty or not closed"
            faults.add(what, Place(problem.row, problem.key, f"ends with {problem.solution[-60:]!r}"))

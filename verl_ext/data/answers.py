"""Whether the verifier can read each ground truth, and grades the answer in a box correct against itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from verl_ext.data.faults import Faults, Place
from verl_ext.data.problems import Problem

VERIFIER = "math_verify"
Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``."""


def check(
    problems: Sequence[Problem],
    faults: Faults,
    keep: Collection[str] = (),
    progress: Progress | None = None,
    timeout_s: float = 10.0,
    workers: int = 1,
) -> dict[str, Any]:
    r"""Grade ``\boxed{answer}`` against the answer, once for each different answer, and each solution, if there is one.

    A solution that does not agree with the answer is counted and no fault: MATH's boxes hold units and the like.

    Args:
        problems: whose answers are checked.
        faults: is added to, for each problem whose outcome is not ``correct`` or whose answer is damaged.
        keep: keys of problems that are known not to pass.
        progress: is told how many are done.
        timeout_s: seconds for an answer.
        workers: grading processes.

    Returns:
        For the manifest: the verifier, how many of the problems it accepts, how many answers are text (words, choices)
        that equals the same text only, and how many solutions it accepts.
    """
    from verl_ext.rewards import verifiers

    verifier = verifiers.get(VERIFIER)
    answers = list(dict.fromkeys(problem.answer for problem in problems))
    pairs = [(f"\\boxed{{{answer}}}", answer) for answer in answers]
    pairs += [(problem.solution, problem.answer) for problem in problems if problem.solution]
    results: list[verifiers.Graded] = []
    for result in verifiers.grade_many(verifier, pairs, workers, timeout_s):
        results.append(result)
        if progress is not None:
            progress(len(results), len(pairs))
    graded = dict(zip(answers, results, strict=False))
    kinds = {a: found.kind for a, found in zip(answers, verifiers.kinds(answers, workers, timeout_s), strict=True)}
    agree = sum(result.outcome == "correct" for result in results[len(answers) :])
    passed = 0
    for problem in problems:
        result = graded[problem.answer]
        passed += result.outcome == "correct"
        if result.outcome != "correct" and problem.key not in keep:
            seen = f"{problem.answer!r}: {result.outcome}{f', {result.detail}' if result.detail else ''}"
            faults.add("the verifier does not accept the answer for itself", Place(problem.row, problem.key, seen))
        elif kinds[problem.answer] == "damaged" and problem.key not in keep:
            what = "the answer is damaged: its brackets do not match, or a command has no argument"
            faults.add(what, Place(problem.row, problem.key, repr(problem.answer)))
    return {
        "verifier": f"{verifier.name} {verifier.version}",
        "accepted": passed,
        "of": len(problems),
        "text": sum(kinds[problem.answer] == "text" for problem in problems),
        "solutions_accepted": agree if len(pairs) > len(answers) else None,
    }

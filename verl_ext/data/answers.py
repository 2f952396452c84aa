"""Whether the verifier tells right from wrong with each ground truth, and how many of them are text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from verl_ext.data.faults import Faults, Place
from verl_ext.data.problems import Problem
from verl_ext.data.text import normalised
from verl_ext.rewards.answer_text import DEFAULT_FORMAT, AnswerFormat

if TYPE_CHECKING:
    from verl_ext.rewards.verifiers import TruthKind

VERIFIER = "math_verify"
TEXT_SHARE = 0.02
"""Of the ground truths: more of them that are text are worked solutions, or a set of words that says so."""
OTHERS = 3
"""Other rows' answers that are tried: two rows may have the same value in two spellings, three hardly."""
WRONG = "-271828182"
"""Tried last, where a set has few other answers."""
_REFUSED = "the verifier does not accept the answer for itself"
_LOOSE = "the verifier accepts other rows' answers for this one"
_UNMARKED = "the answer is several lines of words: a worked solution that does not mark its answer"
_OF_KIND = {
    "unreadable": "the answer cannot be read",
    "damaged": "the answer is damaged: its brackets do not match, or a command has no argument",
}
Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``."""


def check(
    problems: Sequence[Problem],
    faults: Faults,
    keep: Collection[str] = (),
    progress: Progress | None = None,
    timeout_s: float = 10.0,
    workers: int = 1,
    answer_format: AnswerFormat = DEFAULT_FORMAT,
    text_answers: bool = False,
) -> dict[str, Any]:
    r"""Grade responses that end with each different answer, and with another row's; and each solution, if there is one.

    A response with the answer has to be correct, one with another row's answer not; an answer that accepts all of
    `OTHERS` others and a number that nobody asks for is a fault. A solution that does not agree with the answer is
    counted and no fault: MATH's boxes hold units and the like.

    Args:
        problems: whose answers are checked.
        faults: is added to, for each problem whose answer is refused, accepts others, cannot be read in time or is
            damaged, and once if more than `TEXT_SHARE` of the answers are text.
        keep: keys of problems that are known not to pass.
        progress: is told how many are done.
        timeout_s: seconds for an answer.
        workers: grading processes.
        answer_format: how the responses are written.
        text_answers: whether words and choices are what this set asks for.

    Returns:
        For the manifest: the verifier, the format, how many of the problems it accepts, how many answers are text
        (words, choices) that equals the same text only, and how many solutions it accepts.
    """
    from verl_ext.rewards import verifiers
    from verl_ext.rewards.answer_text import written

    verifier = verifiers.get(VERIFIER)
    answers = list(dict.fromkeys(problem.answer for problem in problems))
    solved = [(problem.solution, problem.answer) for problem in problems if problem.solution]
    done, total = 0, 3 * len(answers) + len(solved)

    def told(results: Iterator[Any]) -> Iterator[Any]:
        nonlocal done
        for result in results:
            done += 1
            if progress is not None:
                progress(min(done, total), total)
            yield result

    def graded(pairs: Sequence[tuple[str, str]], style: AnswerFormat = answer_format) -> list[verifiers.Graded]:
        return list(told(verifiers.grade_many(verifier, pairs, workers, timeout_s, style)))

    wrong: dict[str, str] = {}
    right = graded([(written(answer, answer_format), answer) for answer in answers])
    for answer, result in zip(answers, right, strict=True):
        if result.outcome != "correct":
            wrong[answer] = f"{result.outcome}{f', {result.detail}' if result.detail else ''}"
    passed = [answer for answer in answers if answer not in wrong]
    kinds = dict(zip(passed, told(verifiers.kinds(passed, workers, timeout_s)), strict=True))
    # What cannot be read would cost its whole time once more with each of the others.
    loose = [answer for answer in passed if kinds[answer].kind != "unreadable"]
    for others in _others(answers):
        pairs = [(written(others(answer), answer_format), answer) for answer in loose]
        loose = [a for a, result in zip(loose, graded(pairs), strict=True) if result.outcome == "correct"]
        if not loose:
            break
    found = _faulty(wrong, loose, kinds)
    for problem in problems:
        if problem.answer in found and problem.key not in keep:
            what, detail = found[problem.answer]
            seen = f"{problem.answer!r}{f': {detail}' if detail else ''}"
            faults.add(what, Place(problem.row, problem.key, seen))
    text = [p for p in problems if p.key not in keep and p.answer in kinds and kinds[p.answer].kind == "text"]
    if not text_answers and len(text) > TEXT_SHARE * len(problems):
        faults.add(_all_text(text, len(problems)))
    agree = sum(result.outcome == "correct" for result in graded(solved, "boxed"))
    if progress is not None:
        progress(total, total)
    return {
        "verifier": verifier.described(answer_format),
        "answer_format": answer_format,
        "accepted": sum(problem.answer not in wrong for problem in problems),
        "of": len(problems),
        "text": len(text),
        "solutions_accepted": agree if solved else None,
    }


def _faulty(
    wrong: Mapping[str, str], loose: Sequence[str], kinds: Mapping[str, TruthKind]
) -> dict[str, tuple[str, str]]:
    """What is wrong with each faulty answer, and the detail."""
    found = {answer: (_REFUSED, detail) for answer, detail in wrong.items()}
    found |= dict.fromkeys(loose, (_LOOSE, ""))
    for answer, kind in kinds.items():
        if kind.kind == "text" and "\n" in answer:
            found.setdefault(answer, (_UNMARKED, ""))
        elif kind.kind in _OF_KIND:
            found.setdefault(answer, (_OF_KIND[kind.kind], kind.detail))
    return found


def _others(answers: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """For each of the tries, which answer stands in for another row's; different as a text, whatever its spelling."""
    forms = list({normalised(answer): answer for answer in answers}.items())
    places = {form: place for place, (form, _) in enumerate(forms)}
    for step in range(1, min(OTHERS, len(forms) - 1) + 1):
        yield lambda answer, step=step: forms[(places[normalised(answer)] + step) % len(forms)][1]  # type: ignore[misc]
    yield lambda answer: WRONG


def _all_text(text: Sequence[Problem], count: int) -> str:
    shown = "".join(f"\n    row {p.row} [{p.key}] {_ends(p.answer)}" for p in text[:3])
    return (
        f"{len(text)} of {count} answers are text, which nothing but the same text equals (at most "
        f"{TEXT_SHARE:.0%} are expected); if words or choices are meant, accept them with --text-answers:{shown}"
    )


def _ends(answer: str) -> str:
    return repr(answer if len(answer) <= 120 else f"{answer[:60]} ... {answer[-60:]}")

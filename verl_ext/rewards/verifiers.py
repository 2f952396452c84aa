r"""Verifiers by name: what judges whether a response is right, with a version that stands in every result.

``math_verify``: our reading of answers around math-verify's parser, in killable processes (docs/verification.md).
``exact``: answer and ground truth are the same characters, white space aside. ``pkg://module:function``: a function of
your own, in the same killable processes. Where the first two look for the answer: `verl_ext.rewards.answer_text`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeVar, get_args

import verl_ext
from verl_ext.rewards.answer_text import DEFAULT_FORMAT, TAIL_CHARACTERS, AnswerFormat, answer_of, find_boxes, unboxed
from verl_ext.rewards.pool import JobResult, ProcessPool

Outcome = Literal["correct", "wrong", "unparsable", "timeout", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Kind = Literal["mathematics", "text", "damaged", "unreadable"]
RULES = 4
"""Version of our grading rules. Raise it with every change that can change an outcome."""

GRADING_BYTES = 300 << 20
"""Address space of a process that grades with ``math_verify``: four times what it takes after its start."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_GRADING = Path(__file__).with_name("_grading.py")

_pools: dict[tuple[Path, str, int], ProcessPool] = {}
_pools_lock = threading.Lock()


@dataclass(frozen=True)
class Graded:
    r"""What became of one response.

    Attributes:
        outcome: correct, wrong, unparsable (no answer, or none that can be read), timeout, or error.
        boxed: whether the response has a closed ``\boxed{...}``, whatever it holds.
        detail: for people, what happened at a timeout or an error, else empty.
    """

    outcome: Outcome
    boxed: bool
    detail: str = ""


@dataclass(frozen=True)
class Verifier:
    """A way of judging responses. Picklable: processes are started where it is used, not carried along.

    Attributes:
        name: as given to `get`.
        version: of everything that decides an outcome.
        file, function: what the grading processes run; no file for what needs no process.
    """

    name: str
    version: str
    file: Path | None = None
    function: str = "grade"

    @property
    def finds_answers(self) -> bool:
        """Whether it is given the response's answer; a function of your own reads the response itself."""
        return self.file in (None, _GRADING)

    def described(self, answer_format: AnswerFormat) -> str:
        """The version, and where answers were looked for unless that is a box: what results record."""
        marked = self.finds_answers and answer_format != DEFAULT_FORMAT
        return f"{self.version} {answer_format}" if marked else self.version

    def grade(
        self,
        solution: str,
        ground_truth: str,
        timeout_s: float = 5.0,
        workers: int = 2,
        answer_format: AnswerFormat = DEFAULT_FORMAT,
    ) -> Graded:
        """Judge one response.

        Args:
            solution: the response text.
            ground_truth: the expected answer, LaTeX; of one that holds a box, what stands in its last box.
            timeout_s: seconds after which the grading process is killed.
            workers: number of grading processes of this process.
            answer_format: where the answer stands, see `verl_ext.rewards.answer_text`. A function of your own gets the
                end of the response and the ground truth as they are.
        """
        boxes = find_boxes(solution)
        given: str | None = solution[-TAIL_CHARACTERS:]
        if self.finds_answers:
            ground_truth = unboxed(ground_truth)
            given = answer_of(solution, ground_truth, answer_format, boxes)
        if self.file is None:
            right = given is not None and "".join(given.split()) == "".join(ground_truth.split())
            return Graded("unparsable" if given is None else "correct" if right else "wrong", boxes.any_closed)
        result = pool_for(self.file, self.function, workers).run(given, ground_truth, timeout_s=timeout_s)
        return _graded(result, boxes.any_closed)


def _graded(result: JobResult, boxed: bool) -> Graded:
    if result.status != "ok":
        return Graded(result.status, boxed, result.detail)
    value = ("correct" if result.value else "wrong") if isinstance(result.value, bool) else result.value
    if value not in OUTCOMES:
        return Graded("error", boxed, f"the verifier returned {result.value!r}: neither a bool nor one of {OUTCOMES}")
    return Graded(value, boxed)


def pool_for(file: Path, function: str, workers: int) -> ProcessPool:
    """This process's pool for a function, made at first use."""
    # A forked copy of this process inherits the dictionary but not the workers, hence `owned`.
    with _pools_lock:
        pool = _pools.get((file, function, workers))
        if pool is None or not pool.owned:
            limit = {"memory_bytes": GRADING_BYTES} if file == _GRADING else {}
            pool = _pools[file, function, workers] = ProcessPool(file, function, workers, **limit)
        return pool


def close_pools() -> None:
    """End all grading processes of this process; the next call starts new ones."""
    with _pools_lock:
        for pool in _pools.values():
            pool.close()
        _pools.clear()


@lru_cache(maxsize=64)
def get(name: str) -> Verifier:
    """The verifier of that name.

    Args:
        name: ``math_verify``, ``exact``, or ``pkg://module:function``: a function of (solution, ground_truth) that
            returns a bool, or one of correct, wrong, unparsable. Its module is loaded by path in the grading
            processes, so it imports other modules by their full names.

    Raises:
        ValueError: if there is no such verifier.

    Example:
        >>> get("exact").grade("so \\\\boxed{1/2}", "1/2").outcome
        'correct'
    """
    ours = f"verl_ext {verl_ext.__version__}/{RULES}"
    if name == "math_verify":
        return Verifier(name, f"math-verify {metadata.version('math-verify')}, {ours}", _GRADING, "task")
    if name == "exact":
        return Verifier(name, f"exact, {ours}")
    module, colon, function = name.removeprefix("pkg://").partition(":")
    if not name.startswith("pkg://") or not module or not function:
        raise ValueError(f"no verifier {name!r}: choose math_verify, exact, or pkg://module:function")
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ValueError(f"verifier {name!r}: there is no module {module!r} on the path")
    digest = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]
    return Verifier(name, f"{module}{colon}{function} sha256:{digest}", Path(spec.origin), function)


def grade_many(
    verifier: Verifier,
    pairs: Iterable[tuple[str, str]],
    workers: int = 2,
    timeout_s: float = 5.0,
    answer_format: AnswerFormat = DEFAULT_FORMAT,
) -> Iterator[Graded]:
    """Judge (solution, ground truth) pairs, `workers` at a time; results come in the order of the pairs.

    `pairs` is read only a little ahead of what was taken, so that it may be longer than memory.
    """

    def one(pair: tuple[str, str]) -> Graded:
        return verifier.grade(*pair, timeout_s=timeout_s, workers=workers, answer_format=answer_format)

    return _in_order(one, pairs, workers)


@dataclass(frozen=True)
class TruthKind:
    """What `kind` says of a ground truth; `detail` tells why one is unreadable, and is empty otherwise."""

    kind: Kind
    detail: str = ""


def kind(ground_truth: str, timeout_s: float = 5.0, workers: int = 2) -> TruthKind:
    r"""What ``math_verify`` makes of a ground truth; of one that holds a box, of what stands in its last box.

    Every ground truth is correct against itself to the letter, so that this is what tells whether a data set can be
    verified.

    Returns:
        ``mathematics`` can be compared with other spellings of the same; ``text`` (words, choices, notation that no
        rule reads) equals the same text only; ``damaged``: brackets that do not match, commands without arguments,
        or neither letters nor digits; ``unreadable``: it is not read in time, or ends the process that reads it.
    """
    result = pool_for(_GRADING, "task", workers).run(None, unboxed(ground_truth), "kind", timeout_s=timeout_s)
    return TruthKind(result.value) if result.status == "ok" else TruthKind("unreadable", result.detail)


def readable(ground_truth: str) -> bool:
    r"""Whether ``math_verify`` understands a ground truth as mathematics, see `kind`."""
    return kind(ground_truth).kind == "mathematics"


def kinds(ground_truths: Iterable[str], workers: int = 2, timeout_s: float = 5.0) -> Iterator[TruthKind]:
    """`kind` of each, `workers` at a time, in order."""
    return _in_order(lambda truth: kind(truth, timeout_s, workers), ground_truths, workers)


def _in_order(one: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(one, item))
                if len(waiting) > 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Nobody takes the rest when the caller stops early.
            for future in waiting:
                future.cancel()

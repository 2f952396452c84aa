"""Run properties over methods: draw cases, and shrink the first that fails to the smallest that still does."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import HealthCheck, find, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, NoSuchExample, Unsatisfiable

from verl_ext.conformance.exemptions import Exemptions
from verl_ext.conformance.properties import GRADES, OPTION, TRAINING, Property, Violation, given
from verl_ext.conformance.subjects import untouched_generators

EXAMPLES = 30
# Calls that Hypothesis may make to shrink a case, and calls to trim what it found.
SHRINKING, TRIMMING = 50, 60


class Subject(Protocol):
    """What the battery needs of a loss or an estimator."""

    name: str
    kind: str
    origin: str
    skip: str
    exempt: Mapping[str, str]
    defaults: Mapping[str, Any]

    def strata(self, examples: int) -> Iterator[Any]:
        """Groups of cases, each with its number of examples; together they cover the options."""
        ...

    def cases(self, recipe: Any, stratum: Any) -> st.SearchStrategy[Any]:
        """Cases of a recipe within a group."""
        ...

    def usual(self, case: Any) -> Any:
        """The case with every option at its default."""
        ...


@dataclass(frozen=True)
class Cell:
    """One method and one property.

    Attributes:
        status: `ok`, `fail` or `n/a`.
        message: what was seen and what had to be seen, of a failure.
        case: the smallest case found that fails.
        given: the same as the method got it: a property may change what was drawn.
        grade: what the failure means, one of `GRADES`.
        left_out: declared exceptions: condition (empty: all cases) -> reason.
    """

    status: str
    message: str = ""
    case: Any = None
    given: Any = None
    grade: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One method: its cells by property, or why there are none."""

    subject: Any
    cells: Mapping[str, Cell]

    @property
    def failures(self) -> dict[str, Cell]:
        """The failing cells."""
        return {key: cell for key, cell in self.cells.items() if cell.status == "fail"}


def examine_all(
    subjects: Iterable[Subject],
    columns: Mapping[str, Property],
    examples: int = EXAMPLES,
    seed: int = 0,
    done: Callable[[Subject], None] = lambda _: None,
) -> list[Row]:
    """Every property of every method.

    Args:
        subjects: losses, or estimators.
        columns: the properties.
        examples: cases drawn for a cell; more for a method with options, so that each value comes up.
        seed: two runs with the same seed draw the same cases, whatever else is run.
        done: called after each method.
    """
    rows = []
    for subject in subjects:
        cells = {} if subject.skip else {k: examine(subject, p, examples, seed) for k, p in columns.items()}
        rows.append(Row(subject, cells))
        done(subject)
    return rows


def examine(subject: Subject, prop: Property, examples: int = EXAMPLES, seed: int = 0) -> Cell:
    """One cell."""
    exemptions = Exemptions(subject.exempt, prop.key)
    if exemptions.all_cases:
        return Cell("n/a", left_out=exemptions.reasons)
    generator = random.Random(f"{seed} {subject.kind} {subject.name} {prop.key}")

    def tested(facts: Mapping[str, Any]) -> bool:
        return not exemptions.excludes({**subject.defaults, **facts})

    with untouched_generators():
        for stratum in subject.strata(math.ceil(examples * prop.share)):
            if tested(stratum.facts):
                strategy = subject.cases(prop.recipe, stratum).filter(lambda case: tested(case.facts))
                found = _Search(subject, prop, tested).smallest(strategy, stratum.examples, generator)
                if found is not None:
                    case, wrong = found
                    grade = _grade(subject, prop, case, wrong, tested)
                    return Cell("fail", str(wrong), case, wrong.given or case, grade, exemptions.reasons)
    return Cell("ok", left_out=exemptions.reasons)


def verdict(subject: Subject, prop: Property, case: Any) -> Violation | None:
    """What is wrong with a case, or None. A loss may raise anything, which is then what is wrong."""
    try:
        with given(case):
            prop.check(subject, case)
    except Violation as violation:
        return violation
    return None


def _grade(
    subject: Subject, prop: Property, case: Any, wrong: Violation, tested: Callable[[Mapping[str, Any]], bool]
) -> str:
    """What a failure means; one that the defaults do not share is one of an option."""
    grade, usual = wrong.grade or prop.grade, subject.usual(case)
    if grade != TRAINING or usual.options == case.options:
        return grade
    return TRAINING if tested(usual.facts) and verdict(subject, prop, usual) else OPTION


class _Enough(BaseException):
    """Ends a search from within; Hypothesis lets it pass, as it is no Exception."""


class _Search:
    """Hypothesis's search for the smallest failing case, with a bound on the calls that shrinking makes."""

    def __init__(self, subject: Subject, prop: Property, tested: Callable[[Mapping[str, Any]], bool]) -> None:
        self.subject, self.prop, self.tested = subject, prop, tested
        self.failing: dict[str, tuple[Any, Violation]] = {}
        self.calls_left = SHRINKING

    def smallest(
        self, strategy: st.SearchStrategy[Any], examples: int, generator: random.Random
    ) -> tuple[Any, Violation] | None:
        """The case and what is wrong with it, or None."""
        limits = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        # Flaky: a loss with a hidden state, whose case failed and then did not.
        with suppress(NoSuchExample, Unsatisfiable, Flaky, _Enough):
            find(strategy, self._fails, settings=limits, random=generator)
        return self._trimmed(*self._best()) if self.failing else None

    def _best(self) -> tuple[Any, Violation]:
        """The plainest of those that matter most."""

        def badness(text: str) -> tuple[int, int, int, str]:
            return self._rank(self.failing[text][1]), text.count(","), len(text), text

        return self.failing[min(self.failing, key=badness)]

    def _rank(self, wrong: Violation) -> int:
        return GRADES.index(wrong.grade or self.prop.grade)

    def _trimmed(self, case: Any, message: Violation) -> tuple[Any, Violation]:
        """Rows and columns dropped one by one: Hypothesis has to change many choices at once for some of these."""
        calls = 0
        candidates = case.smaller()
        while calls < TRIMMING and (candidate := next(candidates, None)) is not None:
            calls += 1
            wrong = verdict(self.subject, self.prop, candidate) if self.tested(candidate.facts) else None
            if wrong is not None and self._rank(wrong) <= self._rank(message):
                case, message, candidates = candidate, wrong, candidate.smaller()
        return case, message

    def _fails(self, case: Any) -> bool:
        text = json.dumps(case.to_json(), sort_keys=True)
        if text in self.failing:
            return True
        if self.failing:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise _Enough
        message = verdict(self.subject, self.prop, case)
        if message is not None:
            self.failing[text] = (case, message)
        return message is not None

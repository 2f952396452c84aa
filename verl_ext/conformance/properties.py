"""What a property is, and how numbers are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from verl_ext.conformance.batches import in_words

# What a failure means, the worst first.
TRAINING = "breaks training"  # a usual run learns something else, or ends
OPTION = "wrong under an option"  # so does a run with another aggregation, hyper-parameter, precision or correction
STYLE = "style"  # what verl hands over is handled; it costs time, or breaks with inputs that verl does not make
GRADES = (TRAINING, OPTION, STYLE)

# float32 sums of a few dozen terms of size 1, taken in another order, differ by less.
RELATIVE, ABSOLUTE = 1e-4, 2e-5
# Part of `ABSOLUTE` for terms that cancel; the greatest weight of a token is 1, and means have much smaller ones.
CANCELLED = 0.25


@dataclass(frozen=True)
class Result:
    """What one call gave.

    Attributes:
        value: the loss.
        gradient: [B, T], of `log_prob`; 0 where no path leads to it.
        metrics: as the loss returned them.
        attached: whether the loss has a graph, without which verl's `backward` raises.
        advantages: [B, T], 0 behind the mask: the scale of the loss's terms.
        others: gradients of the further tensors that were asked for, None where no path leads to one.
    """

    value: Tensor
    gradient: Tensor
    metrics: Any
    attached: bool
    advantages: Tensor
    others: dict[str, Tensor | None]


class Violation(Exception):
    """A case in which a property does not hold; the message says what was seen and what had to be seen.

    Attributes:
        given: the case as the method got it, where the property had changed it.
        grade: one of `GRADES`; empty: that of the property.
    """

    def __init__(self, message: str, given: Any = None, grade: str = "") -> None:
        super().__init__(message)
        self.given, self.grade = given, grade


@contextmanager
def given(case: Any, grade: str = "") -> Iterator[None]:
    """A violation or exception within is shown with this case, in place of the one that was drawn.

    An exception ends a run, so that its grade is that of `TRAINING` if no other is given.
    """
    try:
        yield
    except Violation as violation:
        violation.given, violation.grade = violation.given or case, violation.grade or grade
        raise
    except Exception as error:
        raise Violation(f"it raises {type(error).__name__}: {error}", case, grade or TRAINING) from error


@dataclass(frozen=True)
class Property:
    """A column of the battery.

    Attributes:
        key: name in commands and in JSON.
        heading: words of the column, one a line.
        check: `(subject, case)`, raises `Violation`; its docstring is the exact statement.
        recipe: which cases are drawn.
        share: part of the usual number of examples.
        grade: what a failure means, one of `GRADES`.
    """

    key: str
    heading: str
    check: Callable[[Any, Any], None] = field(repr=False)
    recipe: Any = field(repr=False)
    share: float = 1.0
    grade: str = TRAINING

    @property
    def statement(self) -> str:
        """The property in words."""
        return " ".join((self.check.__doc__ or "").split())


class Table(dict[str, Property]):
    """Properties by key, in the order of the columns; `@table.column(...)` adds one."""

    def column(self, heading: str, recipe: Any, share: float = 1.0, grade: str = TRAINING) -> Callable[[Any], Any]:
        """Make a function of (subject, case) the property of its own name."""

        def add(check: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
            self[check.__name__] = Property(check.__name__, heading, check, recipe, share, grade)
            return check

        return add


def expect(condition: bool, message: str, grade: str = "") -> None:
    """Raise `Violation` unless the condition holds."""
    if not condition:
        raise Violation(message, grade=grade)


def close(got: Tensor, wanted: Tensor, scale: float | Tensor) -> bool:
    """Whether two tensors are equal up to rounding; `scale` is the size of the terms that they are sums of."""
    if not torch.isfinite(got).all() or not torch.isfinite(wanted).all():
        return torch.equal(torch.nan_to_num(got, nan=123.0), torch.nan_to_num(wanted, nan=123.0))
    got, wanted = got.double(), wanted.double()
    return bool(((got - wanted).abs() <= RELATIVE * torch.maximum(got.abs(), wanted.abs()) + ABSOLUTE * scale).all())


def terms(outcome: Result, factor: float) -> Tensor:
    """The size of the terms that a loss is a sum of, if it and its gradient are to be multiplied by `factor`."""
    # Gradients may cancel to 0 where the terms do not, as those of a row whose advantages sum to 0.
    gradient = outcome.gradient.detach().double().nan_to_num(0, 0, 0).abs().sum()
    # A log-probability times an advantage is some times its gradient.
    return 10 * factor * gradient + CANCELLED * outcome.advantages.double().abs().sum()


def same_value(where: str, got: Tensor, outcome: Result, factor: float = 1.0) -> None:
    """Raise `Violation` unless a value of the loss is, up to rounding, `factor` times that of an outcome."""
    wanted = factor * outcome.value
    if not close(got, wanted, terms(outcome, factor)):
        raise Violation(f"{where}: the loss is {in_words(got)} instead of {in_words(wanted)}")


def same_gradient(where: str, got: Tensor, wanted: Tensor, advantages: Tensor) -> None:
    """Raise `Violation` unless two gradients are equal up to rounding; `advantages` as in `terms`."""
    size = wanted.detach().double().nan_to_num(0, 0, 0).abs().max() if wanted.numel() else torch.zeros(())
    if not close(got, wanted, size + CANCELLED * advantages.double().abs().max()):
        raise Violation(f"{where}: the gradient is {in_words(got)} instead of {in_words(wanted)}")


def same(where: str, got: Result, wanted: Result, factor: float = 1.0) -> None:
    """Raise `Violation` unless value and gradient are, up to rounding, `factor` times those of an outcome."""
    same_value(where, got.value, wanted, factor)
    same_gradient(where, got.gradient, factor * wanted.gradient, wanted.advantages)

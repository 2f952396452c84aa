"""The demo task: short arithmetic with operator precedence, worked line by line.

A problem is an expression of three or four one-digit operands, for instance ``3+4*2-5=?``. A worked
solution evaluates one operator per line, separates the lines by blank lines, and ends in a boxed answer::

    4*2=8

    3+8=11

    11-5=6

    \\boxed{6}

Two orders of evaluation are written by the same code: `Order.PRECEDENCE` (products first, the right one) and
`Order.LEFT` (left to right, the classic mistake). Where they give the same answer a problem is called *easy*;
the share of easy problems is fixed by `TaskSettings.easy_share`.

Training and validation are disjoint by construction: the SHA-256 of the prompt text decides the split, so a
prompt belongs to exactly one split whatever the seed, the number of problems, or the machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Split = Literal["train", "validation"]

DATA_SOURCE = "verl_ext/demo_arithmetic"
SEPARATOR = "\n\n"
_VALIDATION_BUCKETS = 5
"""One prompt in this many belongs to validation."""


class Order(Enum):
    """The order in which the operators of an expression are applied."""

    PRECEDENCE = "precedence"
    LEFT = "left"


@dataclass(frozen=True)
class TaskSettings:
    """What the problems look like.

    Attributes:
        operands: numbers of operands a problem may have, each equally likely.
        lowest, highest: bounds (inclusive) on every intermediate value of both orders; they keep the table of
            facts small enough to be learnt in a minute.
        easy_share: share of problems whose answer does not depend on the order of evaluation.
    """

    operands: tuple[int, ...] = (3, 4)
    lowest: int = -5
    highest: int = 30
    easy_share: float = 0.25

    def __post_init__(self) -> None:
        faults = []
        if not self.operands or any(count not in (3, 4, 5) for count in self.operands):
            faults.append(f"operands must be a non-empty choice of 3, 4 and 5, got {self.operands}")
        if self.lowest > 0 or self.highest < 20:
            faults.append(f"need lowest <= 0 and highest >= 20, got {self.lowest} and {self.highest}")
        if not 0.0 <= self.easy_share <= 1.0:
            faults.append(f"easy_share must lie in [0, 1], got {self.easy_share}")
        if faults:
            raise ValueError("TaskSettings: " + "; ".join(faults))


@dataclass(frozen=True)
class Step:
    """One line of a solution: ``left operator right = value``."""

    left: int
    operator: str
    right: int
    value: int

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.value}"


@dataclass(frozen=True)
class Problem:
    """An expression as alternating operands and operators.

    Example:
        >>> problem = Problem((3, 4, 2, 5), ("+", "*", "-"))
        >>> problem.prompt, problem.answer, problem.evaluate(Order.LEFT)[-1].value
        ('3+4*2-5=?', '6', 9)
        >>> problem.solution().split(SEPARATOR)
        ['4*2=8', '3+8=11', '11-5=6', '\\\\boxed{6}']
    """

    operands: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The text shown to the model, without the chat template."""
        tail = "".join(f"{op}{value}" for op, value in zip(self.operators, self.operands[1:], strict=True))
        return f"{self.operands[0]}{tail}=?"

    @property
    def answer(self) -> str:
        """The right answer as a decimal string."""
        return str(self.evaluate(Order.PRECEDENCE)[-1].value)

    @property
    def easy(self) -> bool:
        """Whether both orders of evaluation lead to the same answer."""
        return self.evaluate(Order.PRECEDENCE)[-1].value == self.evaluate(Order.LEFT)[-1].value

    @property
    def split(self) -> Split:
        """The split this prompt belongs to; a function of the prompt text alone."""
        digest = hashlib.sha256(self.prompt.encode()).digest()
        return "validation" if int.from_bytes(digest[:8], "big") % _VALIDATION_BUCKETS == 0 else "train"

    def positions(self, order: Order) -> list[int]:
        """Index of the operator (in what is left of the expression) that each line applies."""
        operators = list(self.operators)
        picked = []
        while operators:
            product = order is Order.PRECEDENCE and "*" in operators
            picked.append(operators.index("*") if product else 0)
            del operators[picked[-1]]
        return picked

    def evaluate(self, order: Order) -> list[Step]:
        """The lines of a flawless evaluation in the given order."""
        operands, operators = list(self.operands), list(self.operators)
        steps = []
        for position in self.positions(order):
            left, right = operands[position : position + 2]
            operator = operators.pop(position)
            steps.append(Step(left, operator, right, apply(left, operator, right)))
            operands[position : position + 2] = [steps[-1].value]
        return steps

    def solution(self) -> str:
        """The right solution text: lines and boxed answer separated by blank lines."""
        return write(self.evaluate(Order.PRECEDENCE))


def apply(left: int, operator: str, right: int) -> int:
    """The value of one binary operation; `ValueError` for an operator other than ``+``, ``-``, ``*``."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    raise ValueError(f"operator must be one of + - *, got {operator!r}")


def write(steps: list[Step], answer: int | None = None) -> str:
    """Solution text for the given lines; `answer` defaults to the value of the last line."""
    final = steps[-1].value if answer is None else answer
    return SEPARATOR.join([*map(str, steps), f"\\boxed{{{final}}}"])


def _draw(rng: random.Random, settings: TaskSettings) -> Problem:
    count = rng.choice(settings.operands)
    operands = tuple(rng.randint(1, 9) for _ in range(count))
    operators = tuple(rng.choice("+-*") for _ in range(count - 1))
    return Problem(operands, operators)


def _fits(problem: Problem, easy: bool, settings: TaskSettings) -> bool:
    right, left = problem.evaluate(Order.PRECEDENCE), problem.evaluate(Order.LEFT)
    if (right[-1].value == left[-1].value) != easy:
        return False
    return all(settings.lowest <= step.value <= settings.highest for step in right + left)


def stream(split: Split, seed: int, settings: TaskSettings | None = None) -> Iterator[Problem]:
    """Endless seeded stream of problems of one split; prompts may come again.

    Args:
        split: ``"train"`` or ``"validation"``.
        seed: the same seed gives the same stream; the two splits never share a prompt under any seeds.
        settings: the shape of the problems; the default is the demo's.

    Raises:
        ValueError: for any other split.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split must be 'train' or 'validation', got {split!r}")
    settings = settings or TaskSettings()
    rng = random.Random(f"{split}-{seed}")
    while True:
        easy = rng.random() < settings.easy_share
        problem = _draw(rng, settings)
        while problem.split != split or not _fits(problem, easy, settings):
            problem = _draw(rng, settings)
        yield problem


def problems(split: Split, count: int, seed: int, settings: TaskSettings | None = None) -> list[Problem]:
    """`count` problems with pairwise different prompts, in the order of `stream`.

    Raises:
        ValueError: if the split does not hold that many different prompts (tried 50 draws per problem).
    """
    found: dict[str, Problem] = {}
    source = stream(split, seed, settings)
    for _ in range(50 * count):
        if len(found) == count:
            break
        problem = next(source)
        found.setdefault(problem.prompt, problem)
    if len(found) < count:
        raise ValueError(
            f"only {len(found)} different {split} prompts found for the {count} asked; ask for fewer or "
            f"allow more operands in TaskSettings"
        )
    return list(found.values())


def row(problem: Problem, index: int, extra: dict[str, object] | None = None) -> dict[str, object]:
    """One row of a parquet file in verl's schema."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": index, "split": problem.split, **(extra or {})},
    }

"""What a table of a paper is, once read: plain frozen records, and how a row is written as Hydra overrides.

A row is named ``<paper>/<table>/<row>``, for instance ``sspo/table1/sspo_1_5b``. docs/tables.md describes the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from verl_ext.config_groups import GROUPS
from verl_ext.rewards.answer_text import DEFAULT_FORMAT, AnswerFormat

KINDS = ("train", "sft", "evaluate", "same_as", "derived")
RUN_KINDS = ("train", "sft", "evaluate")
"""Kinds that have a work folder of their own; the others take their values from these."""

_PLAIN = re.compile(r"[A-Za-z_/][\w./\-]*")
_KEYWORD = re.compile(r"(?i)(?:null|true|false|nan|inf)")
_INTERPOLATION = re.compile(r"\$\{[^{}]*\}")


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn.

    Attributes:
        name: what columns call it.
        temperature: 0 for greedy decoding.
        top_p: nucleus; 1 for the whole distribution.
        samples: responses a problem.
        max_tokens: longest response.
        top_k: -1 for all tokens.
    """

    name: str
    temperature: float
    top_p: float
    samples: int
    max_tokens: int
    top_k: int = -1


@dataclass(frozen=True)
class Column:
    """A column: one metric of one benchmark, or the mean of other columns.

    Attributes:
        name: as the paper prints it.
        benchmark: name of the problems; None for a mean.
        metric: ``avg@N``, ``pass@K`` or ``fmt``; None for a mean.
        decoding: name of a decoding; None for a mean.
        mean_of: columns averaged, empty unless this is a mean.
        weights: one for each of `mean_of`; empty for the plain mean.
    """

    name: str
    benchmark: str | None = None
    metric: str | None = None
    decoding: str | None = None
    mean_of: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def shares(self) -> tuple[float, ...]:
        """What each of `mean_of` counts; they add up to 1."""
        weights = self.weights or (1.0,) * len(self.mean_of)
        return tuple(weight / sum(weights) for weight in weights)

    def mean(self, values: Sequence[float]) -> float:
        """The weighted mean ``sum_i w_i x_i / sum_i w_i`` of the values of `mean_of`.

        Example:
            >>> Column("Avg", mean_of=("A", "B"), weights=(3, 1)).mean([10.0, 50.0])
            20.0
        """
        return sum(share * value for share, value in zip(self.shares, values, strict=True))


@dataclass(frozen=True)
class Checkpoint:
    """Which weights are evaluated, fixed before training.

    Attributes:
        rule: ``last`` (after the last step) or ``best`` (the saved step with the best mean over the columns).
        every: steps between the saved checkpoints of ``best``; None for ``last``.
    """

    rule: str = "last"
    every: int | None = None

    def __str__(self) -> str:
        return "last step" if self.rule == "last" else f"best of every {self.every} steps"


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible interface; address and key come from the environment."""

    model: str
    base_url_env: str = "OPENAI_BASE_URL"
    api_key_env: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Derived:
    """Values computed from other rows of the same table, column by column."""

    operation: str
    rows: tuple[str, ...]

    def __call__(self, values: list[float]) -> float:
        """The difference of two values (first minus second) or the mean of some."""
        return values[0] - values[1] if self.operation == "difference" else sum(values) / len(values)


@dataclass(frozen=True)
class Row:
    """A row of a table, with the table's defaults merged below it.

    Attributes:
        name: unique in its table, snake_case.
        label: as the paper prints it.
        panel: sub-heading it stands under; None where there is none.
        kind: one of `KINDS`.
        choices: config group -> option.
        overrides: key of verl's config -> value.
        seeds: one run each.
        checkpoint: which weights are evaluated.
        published: column -> number in the paper's unit; None where the paper prints none.
        notes: what to know about this row.
        endpoint: set for a model behind an API.
        same_as: reference of the row whose run this is.
        derived: set for a row computed from others.
        table: ``<paper>/<table>``.
        template: of the evaluation prompts.
    """

    name: str
    label: str
    panel: str | None
    kind: str
    choices: Mapping[str, str]
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]
    checkpoint: Checkpoint
    published: Mapping[str, float | None]
    notes: tuple[str, ...]
    endpoint: Endpoint | None
    same_as: str | None
    derived: Derived | None
    table: str
    template: str

    @property
    def reference(self) -> str:
        return f"{self.table}/{self.name}"

    def hydra_overrides(self) -> list[str]:
        """Group choices in `GROUPS`, then the overrides, as arguments of Hydra (without ``+`` for groups).

        Example:
            >>> from verl_ext.recipe_files.recipe import find_row
            >>> find_row("demo/table1/espo").hydra_overrides()[:2]
            ['backend=cpu', 'model=tiny_dense']
        """
        ordered = sorted(self.choices, key=lambda group: GROUPS.index(group))
        return [
            *(f"{group}={self.choices[group]}" for group in ordered),
            *(f"{key}={literal(value)}" for key, value in self.overrides.items()),
        ]


@dataclass(frozen=True)
class Table:
    """A table of a paper: see the module, and docs/tables.md for the file it is read from."""

    paper: str
    name: str
    title: str
    source: str
    notes: tuple[str, ...]
    decodings: Mapping[str, Decoding]
    template: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = field(repr=False)
    answer_format: AnswerFormat = DEFAULT_FORMAT

    @property
    def reference(self) -> str:
        return f"{self.paper}/{self.name}"

    @cached_property
    def by_name(self) -> dict[str, Row]:
        """Rows by name."""
        return {row.name: row for row in self.rows}

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


def literal(value: Any) -> str:
    """A value as Hydra's command line reads it back.

    Example:
        >>> [literal(value) for value in (None, True, 1e-06, "mean", "1", "a b", [1, "x"], {"k": 0.5})]
        ['null', 'true', '1e-06', 'mean', "'1'", "'a b'", '[1,x]', '{k:0.5}']
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(literal, value)) + "]"
    text = str(value)
    bare = _PLAIN.fullmatch(text) and not _KEYWORD.fullmatch(text)
    return text if bare or _INTERPOLATION.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    # Inside quotes Hydra unescapes a backslash only where it stands before a quote or ends the string.
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", text)
    return "'" + re.sub(r"(\\+)$", lambda found: found[1] * 2, escaped) + "'"

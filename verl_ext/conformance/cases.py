"""Cases of a policy loss's properties, drawn by Hypothesis and shrunk to the smallest that still fails.

A row is one string of bytes, each byte a choice from a short list whose first entry is the plainest. Hypothesis makes
bytes small and deletes rows, so a shrunk batch has few rows and plain numbers; and a draw costs little, because a row
is one choice rather than sixty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st

from verl_ext.conformance.batches import MASK, WEIGHTS, Batch, in_words

MAX_ROWS, MAX_TOKENS = 8, 6

# Steps in log_prob - old_log_prob. exp of none of them, or of a mean of a few, lies on a usual clip bound.
NONE = (0.0,)
WIDE = (0.0, 0.1, -0.1, 0.5, -0.5, 0.03, -0.03, 1.0, -1.0)
EXTREME = (0.0, 50.0, -50.0, 0.5, -0.5)
# Within the usual bounds, and around them up to beyond the dual clip and DCPO's.
NEAR = (0.1, -0.1, 0.03, -0.03, 0.004, -0.004)
FAR = (0.5, -0.5, 1.0, -1.0, 1.5, 0.25, -0.25, 2.5, -2.5, 0.1, -0.1)

LOG_PROBS = (-1.0, -0.5, -2.0, -0.1, -3.0, -0.7, -5.0, -0.02)
_ADVANTAGES = (1.0, -1.0, 0.5, -2.0, 2.0, -0.5, 1.5, 0.0)
ENTROPIES = (1.0, 0.5, 2.0, 0.1, 3.5, 1.5, 0.0, 0.7)
_WEIGHTS = (1.0, 0.5, 2.0, 1.5, 0.25)
_PER_TOKEN = ("masked", "log_prob", "drift", "advantage", "old_entropy", "entropy", "ref", "weight", "segment", "group")
_ROW_BYTES = 1 + MAX_TOKENS * len(_PER_TOKEN)

_rows = st.lists(st.binary(min_size=_ROW_BYTES, max_size=_ROW_BYTES), min_size=1, max_size=MAX_ROWS)
_widths = st.sampled_from((2, 1, 3, 4, 5, MAX_TOKENS))


@dataclass(frozen=True)
class Recipe:
    """Which batches a property is about.

    Attributes:
        drifts: values of log_prob - old_log_prob.
        weighted: whether calls may carry `rollout_is_weights`.
        uniform: the tokens of a row are alike, but for their segments and groups.
        choices: name -> values that a case picks one of, the plainest first; `{}` where there is nothing to pick.
    """

    drifts: tuple[float, ...] = WIDE
    weighted: bool = True
    uniform: bool = False
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One call of a loss and what a property does with it.

    Attributes:
        variant: hyper-parameters that differ from the defaults.
        mode: `actor.loss_agg_mode`.
        chosen: what the property picked from its recipe's choices.
        batch: the rows.
    """

    variant: Mapping[str, Any]
    mode: str
    chosen: Mapping[str, Any]
    batch: Batch

    @property
    def facts(self) -> dict[str, Any]:
        """What conditions of exemptions are about."""
        return self.options

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the numbers."""
        mode = {"loss_agg_mode": self.mode} if self.mode else {}
        return {**self.variant, **mode, **self.chosen}

    def lines(self, reads: tuple[str, ...]) -> list[str]:
        """The case for people: its options, then one line for each tensor that the method is given."""
        shown = [name for name in self.batch.tensors if name in reads]
        width = max(map(len, shown))
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return [options] * bool(options) + [f"{name:{width}}  {in_words(self.batch[name])}" for name in shown]

    def smaller(self) -> Iterator[Case]:
        """The case with a row, a column or a tensor less, or without any step away from the old policy."""
        batch = self.batch
        rows, columns = range(batch.rows), range(batch.mask.shape[1])
        cuts = [batch.take([i for i in rows if i != row]) for row in rows if len(rows) > 1]
        cuts += [batch.columns([t for t in columns if t != column]) for column in columns if len(columns) > 1]
        cuts += [batch.without(WEIGHTS)] * (WEIGHTS in batch.tensors)
        on_policy = "log_prob" not in batch.tensors or batch["log_prob"].equal(batch["old_log_prob"])
        cuts += [] if on_policy else [batch.replace(log_prob=batch["old_log_prob"])]
        # Properties are about batches with a valid token; those about others mask what they need.
        return (replace(self, batch=cut) for cut in cuts if cut.mask.any())

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        head = {"variant": dict(self.variant), "mode": self.mode, "chosen": dict(self.chosen)}
        return {**head, "batch": self.batch.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        """The inverse of `to_json`."""
        return cls(data["variant"], data["mode"], data["chosen"], Batch.from_json(data["batch"]))


@st.composite
def cases(draw: st.DrawFn, recipe: Recipe, variant: Mapping[str, Any], mode: str, optional: tuple[str, ...]) -> Case:
    """Cases of a recipe.

    Args:
        draw: Hypothesis's.
        recipe: which batches.
        variant, mode: hyper-parameters and aggregation.
        optional: fields of the context that the loss reads if present and can do without; half of the cases do.
    """
    chosen = {name: draw(st.sampled_from(values)) for name, values in recipe.choices.items()}
    bits = draw(st.integers(0, 7))
    level = chosen.get("advantages", "token" if bits & 1 else "row")
    width = draw(_widths)
    batch = decode(draw(_rows), width, recipe.drifts, level == "row", recipe.uniform)
    left_out = () if bits & 2 and recipe.weighted else (WEIGHTS,)
    return Case(variant, mode, chosen, batch.without(*left_out, *(optional if bits & 4 else ())))


def decode(
    rows: list[bytes], width: int, drifts: tuple[float, ...], row_advantages: bool, uniform: bool = False
) -> Batch:
    """The batch that some bytes stand for.

    Args:
        rows: one string a row, its first byte the kind of mask, then `_PER_TOKEN` for each token.
        width: T.
        drifts: values of log_prob - old_log_prob.
        row_advantages: one advantage a row, that of its first token, as outcome rewards give.
        uniform: so with everything but masks, segments and groups.
    """
    made = [_row(data, number, width, drifts, row_advantages) for number, data in enumerate(rows)]
    if not any(any(row[MASK]) for row in made):
        # A mini-batch without tokens is the business of one property, which masks what it needs. The first two bytes
        # are the row's kind and its first token's mask.
        made[0] = _row(bytes(2) + rows[0][2:], 0, width, drifts, row_advantages)
    batch = Batch({name: torch.tensor([row[name] for row in made]) for name in made[0]})
    return (
        batch.map(lambda _, x: x[:, :1].expand(x.shape).clone() if x.is_floating_point() else x) if uniform else batch
    )


def plain_batch() -> Batch:
    """Two rows of three tokens, all plain, with which any loss should run."""
    return decode([bytes(_ROW_BYTES), bytes(_ROW_BYTES)], 3, NONE, row_advantages=True)


def _row(data: bytes, number: int, width: int, drifts: tuple[float, ...], row_advantages: bool) -> dict[str, list[Any]]:
    per = len(_PER_TOKEN)
    byte = {name: data[1 + i :: per][:width] for i, name in enumerate(_PER_TOKEN)}
    empty = data[0] % 8 == 7
    mask = [not empty and value % 4 != 3 for value in byte["masked"]]
    # The greater of the two log-probs is drawn, so that neither is above 0. No two tokens have quite the same, as in
    # real data: a method that ranks tokens by them must not be blamed for how it breaks ties.
    top = [pick(LOG_PROBS, b) - (number * MAX_TOKENS + t) / 1000 for t, b in enumerate(byte["log_prob"])]
    drift = [pick(drifts, b) for b in byte["drift"]]
    new = [high + min(d, 0.0) for high, d in zip(top, drift, strict=True)]
    old = [high - max(d, 0.0) for high, d in zip(top, drift, strict=True)]
    advantages = [pick(_ADVANTAGES, b) for b in byte["advantage"]]
    return {
        "old_log_prob": old,
        "log_prob": new,
        "advantages": advantages[:1] * width if row_advantages else advantages,
        MASK: mask,
        WEIGHTS: [pick(_WEIGHTS, b) for b in byte["weight"]],
        "old_entropy": [pick(ENTROPIES, b) for b in byte["old_entropy"]],
        "entropy": [pick(ENTROPIES, b) for b in byte["entropy"]],
        "ref_log_prob": [high - b % 4 / 4 for high, b in zip(top, byte["ref"], strict=True)],
        "segment_ids": _segments(mask, byte["segment"]),
        "group_ids": [b % 2 if valid else -1 for valid, b in zip(mask, byte["group"], strict=True)],
    }


def pick(values: tuple[float, ...], byte: int) -> float:
    """The choice that a byte stands for."""
    return values[byte % len(values)]


def _segments(mask: list[bool], ends: bytes) -> list[int]:
    """Consecutive ids from 0 over the valid tokens; an odd byte starts a new segment."""
    ids, current, started = [], 0, False
    for valid, end in zip(mask, ends, strict=True):
        current += valid and started and end % 2
        started = started or valid
        ids.append(int(current) if valid else -1)
    return ids

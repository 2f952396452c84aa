"""Advantage estimators of verl's registry that compare the rows of one prompt, and the cases they are tested on.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from verl_ext.conformance.batches import MASK, VOCAB, Batch
from verl_ext.conformance.cases import ENTROPIES, LOG_PROBS, Case, pick
from verl_ext.conformance.declared import declaration_of
from verl_ext.conformance.options import chosen_variants, declaration_of_ours, variants
from verl_ext.conformance.subjects import Stratum, in_one_line, origin_of
from verl_ext.context import TokenContext, token_context

REWARDS = "token_level_rewards"
# One number a row, repeated over the row's tokens, so that all tensors of a batch are [B, T].
PROMPT, VERIFIED = "prompt", "verified"
GIVEN = (REWARDS, MASK, "index", "config")

MAX_ROWS, MAX_TOKENS = 8, 4
# verl's whitening raises on fewer tokens, by design and with a message; no real batch is like that.
LEAST_TOKENS = 2
_ROW_BYTES = 4 + 4 * MAX_TOKENS
# Exact in binary, so that a group's mean is exact: rounding is tested where it matters, with the second list.
_EXACT = (0.0, 1.0, 0.5, -0.5, 2.0, 0.25)
_INEXACT = (0.9, 0.1, 0.7, 0.3, -0.3, 0.0)


@dataclass(frozen=True)
class Rows:
    """Which batches a property of estimators is about.

    Attributes:
        equal_rewards: the rows of each prompt have the same reward, one that has no exact binary form.
        singletons: each row is alone with its prompt.
    """

    equal_rewards: bool = False
    singletons: bool = False


class EstimatorCase(Case):
    """One call of an estimator."""

    @property
    def facts(self) -> dict[str, Any]:
        """Options, and whether some row is alone with its prompt."""
        rows = self.batch[PROMPT][:, 0].tolist()
        return {**self.options, "row_alone": any(rows.count(prompt) == 1 for prompt in rows)}

    def smaller(self) -> Iterator[EstimatorCase]:
        """The case with a row less, or a column in which no reward stands."""
        batch = self.batch
        rows, columns = range(batch.rows), range(batch.mask.shape[1])
        spare = [t for t in columns if len(columns) > 1 and not batch[REWARDS][:, t].any()]
        cuts = [batch.take([i for i in rows if i != row]) for row in rows if len(rows) > 1]
        cuts += [batch.columns([t for t in columns if t != column]) for column in spare]
        return (replace(self, batch=cut) for cut in cuts if cut.mask.sum() >= LEAST_TOKENS)


class Estimator:
    """An estimator with everything that a call needs; attributes as in `verl_ext.conformance.subjects.Loss`."""

    kind = "estimator"

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        from verl_ext.plugin import ESTIMATORS

        self.name, self.function = name, function
        self.ours = ESTIMATORS.get(name)
        self.origin = origin_of(function) if self.ours is None else "verl_ext"
        self.declared = declaration_of("estimator", name) if self.ours is None else declaration_of_ours(self.ours)
        self.exempt = self.declared.exempt
        self.reads = (REWARDS, MASK, PROMPT, *(self.ours.reads if self.ours else ()))
        self.defaults = {name: values[0] for name, values in self.declared.options.items()}
        self.variants = variants(self.declared.options, lambda options: self._config(options))
        self.skip = self.declared.skip or self._fault()

    def run(self, case: Case, batch: Batch | None = None, prefix: str = "prompt") -> Tensor:
        """Advantages [B, T] of a case, or of other rows with the case's options; `prefix` names the prompts."""
        return self.call(case.variant, case.batch if batch is None else batch, prefix)[0]

    def call(self, options: Mapping[str, Any], batch: Batch, prefix: str = "prompt") -> tuple[Tensor, Tensor]:
        """Advantages and returns, called as verl's trainer calls a registered estimator."""
        prompts = [f"{prefix} {number}" for number in batch[PROMPT][:, 0].tolist()]
        fields = {name: batch[name] for name in ("old_entropy", "old_log_prob", "ref_log_prob")}
        with token_context(TokenContext(vocab_size=VOCAB, verified=batch[VERIFIED][:, 0], **fields)):
            return self.function(
                # A copy: some of verl's write into the sum of the rewards.
                token_level_rewards=batch[REWARDS] * 1,
                response_mask=batch.mask.long(),
                index=np.array(prompts, dtype=object),
                config=self._config(options),
            )

    def strata(self, examples: int) -> Iterator[Stratum]:
        """The defaults, then each further option value, then combinations of those."""
        yield Stratum({}, "", examples)
        for variant in chosen_variants(self.variants):
            yield Stratum(variant, "", math.ceil(examples / 4))

    def cases(self, recipe: Rows, stratum: Stratum) -> st.SearchStrategy[EstimatorCase]:
        """Cases of a recipe with the stratum's options."""
        return estimator_cases(recipe, stratum.variant)

    def usual(self, case: EstimatorCase) -> EstimatorCase:
        """The case with every option at its default."""
        return replace(case, variant={})

    def _config(self, options: Mapping[str, Any]) -> Any:
        from omegaconf import OmegaConf

        if self.ours is not None:
            self.ours.config_type()(**options)  # a combination that it does not allow is a ValueError
        config = {"norm_adv_by_std_in_grpo": True, "gamma": 1.0, "lam": 1.0, self.name: dict(options)}
        return OmegaConf.create({**config, **self.declared.actor})

    def _fault(self) -> str:
        parameters = inspect.signature(self.function).parameters.values()
        names = {parameter.name for parameter in parameters}
        required = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        further = [name for name in required if name not in GIVEN]
        if further:
            return f"needs {', '.join(further)}, which an estimator over the rows of one prompt does not get"
        if "index" not in names:
            return "compares no rows of one prompt: it has no `index`"
        try:
            self.run(EstimatorCase({}, "", {}, decode([bytes(_ROW_BYTES)] * 2, 2, Rows())))
        except Exception as error:  # an estimator may raise anything, and all of it is reported
            return f"fails on a plain batch: {in_one_line(error)}"
        return ""


@st.composite
def estimator_cases(draw: st.DrawFn, recipe: Rows, options: Mapping[str, Any]) -> EstimatorCase:
    """Cases of a recipe: 1 to 8 rows of 2 to 4 tokens, with 2 valid tokens at least."""
    rows = draw(st.lists(st.binary(min_size=_ROW_BYTES, max_size=_ROW_BYTES), min_size=1, max_size=MAX_ROWS))
    return EstimatorCase(options, "", {}, decode(rows, draw(st.sampled_from((2, 3, MAX_TOKENS))), recipe))


def decode(rows: list[bytes], width: int, recipe: Rows) -> Batch:
    """The batch that some bytes stand for: prompt, reward, verdict, length, then four for each token."""
    made = [_row(data, number, width, recipe) for number, data in enumerate(rows)]
    if recipe.equal_rewards:
        first: dict[int, float] = {}
        for row in made:
            row["reward"] = first.setdefault(row[PROMPT], row["reward"])
    if sum(sum(row[MASK]) for row in made) < LEAST_TOKENS:
        made[0][MASK] = [True] * width
    for row in made:
        # The reward stands at the last valid token, as a reward function puts it.
        last = max((t for t, valid in enumerate(row[MASK]) if valid), default=width - 1)
        row[REWARDS] = [row["reward"] if t == last else 0.0 for t in range(width)]
        row[PROMPT], row[VERIFIED] = [row[PROMPT]] * width, [row[VERIFIED]] * width
        del row["reward"]
    return Batch({name: torch.tensor([row[name] for row in made]) for name in made[0]})


def _row(data: bytes, number: int, width: int, recipe: Rows) -> dict[str, Any]:
    masked, entropy, old, ref = (data[4 + i :: 4][:width] for i in range(4))
    log_probs = [pick(LOG_PROBS, b) for b in old]
    kind = data[3] % 8
    length = width if kind < 3 else 0 if kind == 7 else 1 + data[3] % width
    return {
        PROMPT: number if recipe.singletons else data[0] % (2 if recipe.equal_rewards else 3),
        "reward": pick(_INEXACT if recipe.equal_rewards else _EXACT, data[1]),
        VERIFIED: data[2] % 5 != 4,
        MASK: [t < length and b % 8 != 7 for t, b in enumerate(masked)],
        "old_entropy": [pick(ENTROPIES, b) for b in entropy],
        "old_log_prob": log_probs,
        "ref_log_prob": [high - b % 4 / 4 for high, b in zip(log_probs, ref, strict=True)],
    }

"""A policy loss of verl's registry, as something that can be called with any batch and hyper-parameters."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from verl_ext.conformance.batches import ARGUMENTS, VOCAB, WEIGHTS, Batch
from verl_ext.conformance.cases import Case, Recipe, cases, plain_batch
from verl_ext.conformance.clip_forms import form_of
from verl_ext.conformance.declared import declaration_of
from verl_ext.conformance.options import Variant, chosen_variants, declaration_of_ours, variants
from verl_ext.conformance.properties import Result
from verl_ext.context import TokenContext, token_context

MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
# Bounds that differ, or a loss could take one for the other.
ACTOR = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}
NO_FORM = "no clip form is declared"


class Refused(Exception):
    """The loss raised a ValueError that names the aggregation it was asked for."""


@dataclass(frozen=True)
class Stratum:
    """Cases that have options in common, and how many of them to draw."""

    variant: Variant
    mode: str
    examples: int

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of these cases."""
        return {**self.variant, "loss_agg_mode": self.mode}


class Loss:
    """A policy loss with everything that a call needs.

    Attributes:
        name: key in verl's registry.
        origin: `verl_ext`, `verl`, or the module of another.
        exempt: property, part or case -> reason; see `Declaration.exempt`.
        skip: why it cannot be tested; empty if it can.
        variants: hyper-parameters to try, `{}` (the defaults) first.
        defaults: the default of each option.
        reads: the tensors that it is given, for people.
        form: the clip form, None if none is declared.
    """

    kind = "loss"

    def __init__(self, name: str, function: Callable[..., Any], clip: str = "") -> None:
        from verl_ext.plugin import POLICY_LOSSES

        self.name, self.function = name, function
        self.ours = POLICY_LOSSES.get(name)
        self.origin = origin_of(function) if self.ours is None else "verl_ext"
        self.declared = declaration_of("loss", name) if self.ours is None else declaration_of_ours(self.ours)
        self.form = form_of(self._clip(clip))
        undeclared = {} if self.form else {"off_policy": NO_FORM, "clipping": NO_FORM}
        self.exempt = {**undeclared, **self.declared.exempt}
        self.reads = (*ARGUMENTS, WEIGHTS, *(self.ours.reads if self.ours else ()))
        self.defaults = {name: values[0] for name, values in self.declared.options.items()}
        self.variants = variants(self.declared.options, self._policy_loss)
        self._configs: dict[str, Any] = {}
        self._accepted: dict[str, tuple[str, ...]] = {}
        self.skip = self.declared.skip or self._fault()

    def run(
        self,
        case: Case,
        batch: Batch | None = None,
        *,
        normalisers: Mapping[str, Any] | None = None,
        mode: str | None = None,
        leaves: Sequence[str] = (),
    ) -> Result:
        """Call the loss on a case, forward and backward, with the global random number generator in one fixed state.

        Args:
            case: hyper-parameters, aggregation and rows.
            batch: other rows.
            normalisers: of the whole mini-batch, if these rows are not all of it.
            mode: another aggregation.
            leaves: names of further tensors whose gradients are wanted.

        Raises:
            Refused: a ValueError that names the aggregation.
        """
        batch = case.batch if batch is None else batch
        leaves = ("log_prob", *leaves)
        batch = batch.map(lambda name, tensor: tensor.detach().clone().requires_grad_(name in leaves))
        normalisers = normalisers or batch.normalisers()
        # A loss that draws random numbers is the business of one column, not of all. torch.manual_seed would also
        # queue a call for each kind of device that is not there.
        torch.default_generator.manual_seed(0)
        loss, metrics = self.call(case.variant, mode or case.mode, batch, normalisers)
        attached = isinstance(loss, Tensor) and loss.requires_grad
        if attached:
            loss.backward()
        grads = {name: batch[name].grad for name in leaves}
        gradient = grads.pop("log_prob")
        gradient = torch.zeros_like(batch["log_prob"]) if gradient is None else gradient
        advantages = batch["advantages"].detach().masked_fill(~batch.mask, 0.0)
        return Result(torch.as_tensor(loss).detach(), gradient, metrics, attached, advantages, grads)

    def call(self, variant: Variant, mode: str, batch: Batch, normalisers: Mapping[str, Any]) -> Any:
        """verl's call: `ppo_loss` fills `global_batch_info`, and our bridge binds the token data."""
        config = self.config(variant, mode)
        config.global_batch_info.clear()
        config.global_batch_info.update(normalisers)
        known = {f.name for f in fields(TokenContext)} & batch.tensors.keys()
        context = TokenContext(vocab_size=VOCAB, **{name: batch[name] for name in known})
        with token_context(context):
            try:
                return self.function(
                    **{name: batch[name] for name in ARGUMENTS},
                    loss_agg_mode=mode,
                    config=config,
                    rollout_is_weights=batch.tensors.get(WEIGHTS),
                )
            except ValueError as error:
                if mode in str(error):
                    raise Refused(str(error)) from error
                raise

    def config(self, variant: Variant, mode: str) -> Any:
        """verl's actor configuration; `global_batch_info` is filled at each call, as verl does."""
        from verl.workers.config import ActorConfig

        key = f"{mode} {_key(variant)}"
        if key not in self._configs:
            self._configs[key] = ActorConfig(
                strategy="fsdp",
                rollout_n=1,
                ppo_micro_batch_size_per_gpu=1,
                loss_agg_mode=mode,
                policy_loss=self._policy_loss(variant),
                **{**ACTOR, **self.declared.actor},
            )
        return self._configs[key]

    def declared_objective(self, case: Case, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What the clip form says of a batch: the objective of each token, its gradient, and whether it is clipped."""
        if self.form is None:
            raise ValueError(NO_FORM)
        batch = batch.replace(log_prob=batch["log_prob"].detach().requires_grad_())
        objective, beyond = self.form(batch, self.config(case.variant, case.mode), self._hyper(case.variant))
        (gradient,) = torch.autograd.grad(objective.sum(), batch["log_prob"])
        return objective.detach(), gradient, beyond

    def usual(self, case: Case) -> Case:
        """The case with every option at its default, under the first aggregation that the loss accepts."""
        return replace(case, variant={}, mode=self.modes({})[0])

    def modes(self, variant: Variant) -> tuple[str, ...]:
        """Aggregations that the loss runs with; all of them if it runs with none, so that its error shows."""
        key = _key(variant)
        if key not in self._accepted:
            self._accepted[key] = tuple(mode for mode in MODES if not self._error(variant, mode))
        return self._accepted[key] or MODES

    def strata(self, examples: int) -> Iterator[Stratum]:
        """The defaults with every aggregation, then each further option value, then combinations of those."""
        modes = self.modes({})
        yield from (Stratum({}, mode, math.ceil(examples / len(modes))) for mode in modes)
        for number, variant in enumerate(chosen_variants(self.variants)):
            accepted = self.modes(variant)
            yield Stratum(variant, accepted[number % len(accepted)], math.ceil(examples / 8))

    def cases(self, recipe: Recipe, stratum: Stratum) -> SearchStrategy[Case]:
        """Cases of a recipe, with the stratum's options and aggregation."""
        return cases(recipe, stratum.variant, stratum.mode, self.optional(stratum.variant))

    def optional(self, variant: Variant) -> tuple[str, ...]:
        """Fields of the context that the loss reads if they are there and can do without."""
        if self.ours is None:
            return ()
        needed = self.ours.needed(self._policy_loss(variant))
        return tuple(name for name in self.ours.reads if name not in needed)

    def _clip(self, asked: str) -> Any:
        own = self.declared.clip
        if asked and own is not None and own != asked:
            raise ValueError(f"'{self.name}' declares its own clip form; leave --clip out, or name other losses")
        return asked or own

    def _hyper(self, variant: Variant) -> Mapping[str, Any]:
        """Every hyper-parameter of ours, the tried options of others."""
        if self.ours is None:
            return {**self.defaults, **variant}
        return self.ours.resolve(self._policy_loss(variant))

    def _policy_loss(self, variant: Variant) -> Any:
        from verl.workers.config import PolicyLossConfig

        options = {**self.defaults, **variant}
        if self.declared.policy_loss is not None:
            return self.declared.policy_loss(options)
        return PolicyLossConfig(loss_mode=self.name, **options)

    def _error(self, variant: Variant, mode: str) -> Exception | None:
        """What a plain batch ends with; a loss may raise anything, and all of it is reported."""
        with untouched_generators():
            try:
                self.run(Case(variant, mode, {}, plain_batch()))
            except Exception as error:
                return error
        return None

    def _fault(self) -> str:
        errors = {mode: self._error({}, mode) for mode in MODES}
        if None in errors.values():
            return ""
        return f"fails with every loss_agg_mode: {in_one_line(errors[MODES[0]])}"


def origin_of(function: Callable[..., Any]) -> str:
    """`verl`, or the module that a method comes from."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return "verl" if module.split(".")[0] == "verl" else module


def in_one_line(error: BaseException | None) -> str:
    """Type and first line of an exception."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _key(variant: Variant) -> str:
    return json.dumps(variant, sort_keys=True)


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Global random number generators are afterwards as they were before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002

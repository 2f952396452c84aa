"""Properties about what is optimised: the policy gradient, its sign, what is held constant, weights, aggregation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from verl_ext.conformance.batch_properties import LOSS_PROPERTIES
from verl_ext.conformance.batches import WEIGHTS, Batch, in_words
from verl_ext.conformance.cases import NONE, Case, Recipe
from verl_ext.conformance.properties import (
    OPTION,
    STYLE,
    Result,
    close,
    expect,
    given,
    same,
    same_gradient,
    same_value,
    terms,
)
from verl_ext.conformance.subjects import MODES, Loss, Refused

LEVELS = ("row", "token")


@LOSS_PROPERTIES.column("on- policy", Recipe(NONE, weighted=False, choices={"advantages": LEVELS}))
def on_policy(loss: Loss, case: Case) -> None:
    """Where log_prob equals old_log_prob, the gradient is the policy gradient, that of -sum A * log_prob with the
    token weights of the aggregation; and the value is -A, or -A * log_prob, aggregated with the same weights. The
    weights of another of verl's aggregations are accepted: whether the one asked for is honoured is the business of
    the column `aggregation`.
    """
    result = loss.run(case)
    advantages = case.batch["advantages"] * case.batch.mask
    by_mode = {mode: token_weights(mode, case.batch) for mode in (case.mode, *MODES)}
    gradients = {mode: -advantages * weights for mode, weights in by_mode.items()}
    fitting = [mode for mode, wanted in gradients.items() if close(result.gradient, wanted, wanted.abs().max())]
    if not fitting:
        same_gradient("on-policy", result.gradient, gradients[case.mode], 0 * advantages)
    if "on_policy:value" in loss.exempt:
        return
    expected = [
        (gradients[mode] * factor).sum() for mode in fitting for factor in (torch.ones(()), case.batch["log_prob"])
    ]
    scale = terms(result, 1.0)
    expect(
        any(close(result.value, value, scale) for value in expected),
        f"on-policy: the gradient is the policy gradient, but the loss is {in_words(result.value)}, neither "
        f"{in_words(expected[0])}, -A aggregated, nor {in_words(expected[1])}, -A * log_prob aggregated",
    )


def token_weights(mode: str, batch: Batch) -> Tensor:
    """What verl's `agg_loss` multiplies each token's loss with, [B, T] or a number, on one rank."""
    info = batch.normalisers()
    rows, tokens = max(info["global_batch_size"], 1), max(info["batch_num_tokens"], 1)
    length = batch.mask.sum(dim=-1, keepdim=True).clamp(min=1).double()
    return {
        "token-mean": torch.tensor(1 / tokens),
        "token-sum": torch.tensor(1.0),
        "seq-mean-token-sum": torch.tensor(1 / rows),
        "seq-mean-token-sum-norm": torch.tensor(1 / rows / info["loss_scale_factor"]),
        "seq-mean-token-mean": 1 / length / rows,
    }[mode]


@LOSS_PROPERTIES.column("sign", Recipe(NONE, weighted=False, choices={"advantages": LEVELS}))
def sign(loss: Loss, case: Case) -> None:
    """Where log_prob equals old_log_prob, and nothing can be clipped, raising the log-prob of a token with a positive
    advantage never raises the loss, and with a negative advantage never lowers it; and where all advantages are not 0,
    some token has a gradient.
    """
    gradient, advantages, mask = loss.run(case).gradient, case.batch["advantages"], case.batch.mask
    size = gradient.abs().max()
    wrong = mask & (gradient * advantages.sign() > 1e-5 * size)
    expect(
        not wrong.any(), f"on-policy: the gradient is {in_words(gradient)} for advantages {in_words(advantages * mask)}"
    )
    if mask.any() and advantages[mask].all():
        expect(bool(size > 0), f"on-policy: no token has a gradient, with advantages {in_words(advantages * mask)}")


@LOSS_PROPERTIES.column("con- stants", Recipe(), 0.5, STYLE)
def constants(loss: Loss, case: Case) -> None:
    """No gradient flows into advantages, old log-probs, entropies, or any other tensor than log_prob."""
    names = [name for name in case.batch.floats if name != "log_prob"]
    result = loss.run(case, leaves=names)
    reached = [f"{name} {in_words(grad)}" for name, grad in result.others.items() if grad is not None and grad.any()]
    expect(not reached, f"gradient flows into {' and '.join(reached)}")


@LOSS_PROPERTIES.column("rollout weights", Recipe(weighted=False), grade=OPTION)
def rollout_weights(loss: Loss, case: Case) -> None:
    """`rollout_is_weights` of ones change nothing, and of twos double the value and the gradient."""
    plain = loss.run(case)
    for weight in (1.0, 2.0):
        weights = {WEIGHTS: torch.full_like(case.batch["log_prob"], weight)}
        carrying = replace(case, batch=case.batch.replace(**weights))
        with given(carrying, OPTION):
            same(f"rollout_is_weights of {weight:g}", loss.run(carrying), plain, weight)


@LOSS_PROPERTIES.column("aggre- gation", Recipe(weighted=False), 0.6, OPTION)
def aggregation(loss: Loss, case: Case) -> None:
    """Each of verl's five `loss_agg_mode` is refused by a ValueError that names it, or honoured. Honoured: the value
    and the gradient scale with 1/`batch_num_tokens`, 1/`global_batch_size`, 1/`loss_scale_factor` and `dp_size` as in
    verl's `agg_loss`, and not with those that the mode does not read; and between two modes they differ by the ratio
    of the weights that the modes give to each row: token-mean 1/N, token-sum 1, seq-mean-token-sum 1/G,
    seq-mean-token-sum-norm 1/(G * factor), seq-mean-token-mean 1/(G * n_i).
    """
    # Different from what the rows themselves would give, so that a loss which counts by itself is seen.
    base = {"dp_size": 1, "batch_num_tokens": 7, "global_batch_size": 5, "loss_scale_factor": 3}
    results = {mode: _run_mode(loss, case, mode, base) for mode in MODES}
    honoured = {mode: result for mode, result in results.items() if result is not None}
    for mode, result in honoured.items():
        for name, value in base.items():
            factor = 2.0 if name == "dp_size" else 0.5 if name in _READS[mode] else 1.0
            doubled = {**base, name: 2 * value}
            with given(replace(case, mode=mode, chosen=doubled), OPTION):
                scaled = loss.run(case, mode=mode, normalisers=doubled)
                same(f"loss_agg_mode={mode}, {name} doubled", scaled, result, factor)
    for (one, result), (other, reference) in itertools.combinations(honoured.items(), 2):
        with given(replace(case, mode=one, chosen=base), OPTION):
            _same_objective(case.batch, base, one, result, other, reference)


_READS = {
    "token-mean": ("batch_num_tokens",),
    "token-sum": (),
    "seq-mean-token-sum": ("global_batch_size",),
    "seq-mean-token-sum-norm": ("global_batch_size", "loss_scale_factor"),
    "seq-mean-token-mean": ("global_batch_size",),
}


def _run_mode(loss: Loss, case: Case, mode: str, normalisers: dict[str, int]) -> Result | None:
    """None where the loss refuses the mode."""
    with given(replace(case, mode=mode, chosen=normalisers), OPTION):
        try:
            return loss.run(case, mode=mode, normalisers=normalisers)
        except Refused:
            return None


def _same_objective(
    batch: Batch, base: dict[str, int], asked: str, result: Result, other: str, reference: Result
) -> None:
    """Raise `Violation` unless two modes weigh the rows of one and the same per-token objective."""
    length = batch.mask.sum(dim=-1, keepdim=True).clamp(min=1).double()

    def inverse_weight(mode: str) -> Tensor:
        constant = 1.0
        for name in _READS[mode]:
            constant *= base[name]
        return constant * (length if mode == "seq-mean-token-mean" else torch.ones_like(length))

    ratio = inverse_weight(other) / inverse_weight(asked)
    where = f"loss_agg_mode={asked}, from the result of {other} and the modes' definitions"
    wanted = reference.gradient.double() * ratio
    same_gradient(where, result.gradient, wanted, result.advantages)
    # With rows of different lengths the value of a mean over rows does not follow from that of a mean over tokens.
    if ratio.min() == ratio.max():
        same_value(where, result.value, reference, float(ratio[0, 0]))

"""Properties of advantage estimators."""

from __future__ import annotations

import torch

from verl_ext.conformance.batches import Batch, in_words
from verl_ext.conformance.cases import Case
from verl_ext.conformance.estimators import MASK, PROMPT, REWARDS, Estimator, Rows
from verl_ext.conformance.properties import STYLE, TRAINING, Table, close, expect

ESTIMATOR_PROPERTIES = Table()

# An advantage below it changes no policy.
ROUNDING = 1e-4


@ESTIMATOR_PROPERTIES.column("group order", Rows(), 2.0)
def group_order(estimator: Estimator, case: Case) -> None:
    """Permuting the rows permutes the advantages, and other names for the prompts change nothing."""
    plain = estimator.run(case)
    backwards = list(range(case.batch.rows))[::-1]
    permuted = estimator.run(case, case.batch.take(backwards))
    text = f"{in_words(permuted)} instead of {in_words(plain[backwards])}"
    expect(close(permuted, plain[backwards], 1.0), f"rows reversed: the advantages are {text}")
    # Names that sort the other way round.
    renamed = case.batch.replace(**{PROMPT: 9 - case.batch[PROMPT]})
    named = estimator.run(case, renamed, prefix="")
    text = f"{in_words(named)} instead of {in_words(plain)}"
    expect(close(named, plain, 1.0), f"prompts renamed: the advantages are {text}")


@ESTIMATOR_PROPERTIES.column("zero spread", Rows(equal_rewards=True), 2.0)
def zero_spread(estimator: Estimator, case: Case) -> None:
    """Where the two or more rows of a prompt have the same reward, their advantages are exactly 0: there is nothing
    to learn, and a rounding error divided by a spread of 0 must not stand in for it.
    """
    prompts = case.batch[PROMPT][:, 0]
    together = (prompts.unsqueeze(0) == prompts.unsqueeze(1)).sum(dim=1) > 1
    advantages = estimator.run(case)[together]
    rewards = case.batch[REWARDS].sum(dim=-1)[together]
    text = f"rewards {in_words(rewards)}: the advantages are {in_words(advantages)}"
    expect(not advantages.any(), text, TRAINING if (advantages.abs() > ROUNDING).any() else STYLE)


@ESTIMATOR_PROPERTIES.column("single- ton", Rows(singletons=True))
def singleton(estimator: Estimator, case: Case) -> None:
    """The advantages of a row that is alone with its prompt are finite. Those of verl_ext's estimators are 0."""
    advantages = estimator.run(case)
    expect(bool(torch.isfinite(advantages).all()), f"the advantages are {in_words(advantages)}")
    expect(estimator.origin != "verl_ext" or not advantages.any(), f"the advantages are {in_words(advantages)}, not 0")


@ESTIMATOR_PROPERTIES.column("padding rows", Rows(), 2.0)
def padding_rows(estimator: Estimator, case: Case) -> None:
    """1 or 3 rows as verl adds them to fill a batch (mask all 0, reward 0, one prompt of their own) get advantages of
    0, and change those of no other row.
    """
    plain = estimator.run(case)
    for count in (1, 3):
        source = case.batch.take([0] * count)
        pad = source.map(lambda name, x: torch.zeros_like(x) if name in (MASK, REWARDS) else x)
        pad = pad.replace(**{PROMPT: torch.full_like(source[PROMPT], 99)})
        both = {name: torch.cat([tensor, pad[name]]) for name, tensor in case.batch.tensors.items()}
        padded = estimator.run(case, Batch(both))
        where = f"with {count} padding row{'s' * (count > 1)}"
        text = f"{in_words(padded[:-count])} instead of {in_words(plain)}"
        expect(close(padded[:-count], plain, 1.0), f"{where}: the advantages of the others are {text}")
        expect(not padded[-count:].any(), f"{where}: its advantages are {in_words(padded[-count:])}")


@ESTIMATOR_PROPERTIES.column("finite", Rows(), 2.0)
def finite(estimator: Estimator, case: Case) -> None:
    """Advantages and returns are finite: no NaN, no infinity."""
    for name, tensor in zip(("advantages", "returns"), estimator.call(case.variant, case.batch), strict=True):
        expect(bool(torch.isfinite(tensor).all()), f"the {name} are {in_words(tensor)}")


@ESTIMATOR_PROPERTIES.column("outside mask", Rows(), 2.0, STYLE)
def outside_mask(estimator: Estimator, case: Case) -> None:
    """Advantages are 0 where the mask is 0."""
    advantages = estimator.run(case)
    expect(not advantages[~case.batch.mask].any(), f"the advantages are {in_words(advantages)}")


@ESTIMATOR_PROPERTIES.column("no gradient", Rows(), 0.5, STYLE)
def no_gradient(estimator: Estimator, case: Case) -> None:
    """Advantages and returns carry no gradient, also where rewards, entropies and log-probs do."""
    batch = case.batch.map(lambda _, x: x.clone().requires_grad_(x.is_floating_point()))
    for name, tensor in zip(("advantages", "returns"), estimator.call(case.variant, batch), strict=True):
        expect(not tensor.requires_grad, f"the {name} carry gradient")

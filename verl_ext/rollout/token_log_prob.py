"""A token's log-prob that knows the entropy of the distribution the token was drawn from.

verl moves the log-probs of sampled tokens from the server to the trainer as a list of floats: it joins the pieces of
a response that was aborted and resumed, puts 0.0 in the places of tool and template tokens, cuts to the length of the
response. Every agent loop, also one of a user, has to do that right. An entropy that rides on its log-prob goes the
same way, and no loop needs to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class TokenLogProb(float):
    """A float, the log-prob, with the attribute `entropy`, nats.

    Example:
        >>> token = TokenLogProb(-0.5, 1.25)
        >>> token == -0.5, token.entropy
        (True, 1.25)
    """

    __slots__ = ("entropy",)
    entropy: float

    def __new__(cls, log_prob: float, entropy: float) -> TokenLogProb:
        made = super().__new__(cls, log_prob)
        made.entropy = entropy
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenLogProb, (float(self), self.entropy)


class TokenLogProbs(list[TokenLogProb]):
    """A list of `TokenLogProb` that is sent as two arrays: one object a token would be slow to pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        entropies = [token.entropy for token in self]
        return joined, (np.array(self, dtype=np.float64), np.array(entropies, dtype=np.float32))


def joined(log_probs: Iterable[float], entropies: Iterable[float]) -> TokenLogProbs:
    """Pair the two, token by token.

    Raises:
        ValueError: they differ in length.

    Example:
        >>> [token.entropy for token in joined([-0.5, 0.0], [1.25, 0.0])]
        [1.25, 0.0]
    """
    pairs = zip(map(float, log_probs), map(float, entropies), strict=True)
    return TokenLogProbs(TokenLogProb(log_prob, entropy) for log_prob, entropy in pairs)


def entropies_of(log_probs: Sequence[float] | None, mask: Sequence[int]) -> list[float]:
    """The entropy of every response token, one for each entry of `mask`.

    Args:
        log_probs: of the response's tokens; None where the engine gave none.
        mask: 1 for tokens of the model, 0 for those of tools and templates.

    Returns:
        Nats. 0 for a token that the model did not write; NaN for one that it did and whose entropy is not known, so
        that it is seen and counted further on.

    Example:
        >>> entropies_of([TokenLogProb(-0.5, 1.25), 0.0, -0.5], [1, 0, 1])
        [1.25, 0.0, nan]
    """
    found = list(log_probs or ())[: len(mask)]
    found += [float("nan")] * (len(mask) - len(found))
    return [
        getattr(log_prob, "entropy", float("nan")) if own else 0.0 for log_prob, own in zip(found, mask, strict=True)
    ]

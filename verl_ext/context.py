"""Per-token data that verl's loss and estimator signatures have no room for.

verl hands a registered policy loss log-probabilities, advantages and a mask. Entropies, reference
log-probabilities, segment ids and verifier flags travel beside the call in a `TokenContext`, bound with
`token_context` by the bridge (or by a test) for as long as the call lasts.

Shapes: B rows, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# One line for each field: what provides it. The text ends up in the error a user reads.
PROVIDERS = {
    "old_entropy": (
        "it is a by-product of the actor's old-log-prob pass or, where "
        "`algorithm.rollout_correction.bypass_mode=true`, of the rollout; see `algorithm.verl_ext.entropy_source`"
    ),
    "entropy": "set `actor_rollout_ref.actor.calculate_entropy=True`",
    "segment_ids": "the bridge computes them on the controller from the responses' token ids",
    "group_ids": "the bridge computes them on the controller from the old policy's entropies",
    "ref_log_prob": "set `actor_rollout_ref.actor.use_kl_loss=True` (its coefficient may be 0)",
    "vocab_size": "it is read from the model's config (`vocab_size`, or `text_config.vocab_size`)",
    "verified": "let the reward function return a dict with a boolean key `verified` beside `score`",
    "old_log_prob": (
        "it comes from the actor's old-log-prob pass, or from the rollout where "
        "`algorithm.rollout_correction.bypass_mode=true`"
    ),
}


class MissingTokenData(ValueError):
    """A method was asked to run without a field of `TokenContext` that its options need."""


@dataclass(frozen=True)
class TokenContext:
    """Per-token data of one micro-batch (losses) or of the whole batch (estimators).

    Attributes:
        old_entropy: [B, T] float, full-vocabulary entropy of the behaviour policy, nats.
        entropy: [B, T] float, the same of the current policy, nats.
        segment_ids: [B, T] long, 0-based per row, -1 where the response mask is 0.
        ref_log_prob: [B, T] float, log-probability under the reference policy.
        vocab_size: V, the size of the distribution that the entropies are taken over.
        verified: [B] bool, whether the verifier could judge the row.
        old_log_prob: [B, T] float, log-probability under the behaviour policy.
        group_ids: [B, T] long, entropy group of each token, -1 where the response mask is 0.

    Example:
        >>> with token_context(TokenContext(vocab_size=256)):
        ...     current_context().vocab_size
        256
        >>> current_context().vocab_size is None
        True
    """

    old_entropy: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    segment_ids: torch.Tensor | None = None
    ref_log_prob: torch.Tensor | None = None
    vocab_size: int | None = None
    verified: torch.Tensor | None = None
    old_log_prob: torch.Tensor | None = None
    group_ids: torch.Tensor | None = None


_EMPTY = TokenContext()
_bound: ContextVar[TokenContext] = ContextVar("verl_ext_token_context", default=_EMPTY)


def current_context() -> TokenContext:
    """The context bound by the innermost `token_context`, or one with every field None."""
    return _bound.get()


@contextmanager
def token_context(context: TokenContext) -> Iterator[TokenContext]:
    """Bind `context` for the body of a `with` statement; the previous one returns afterwards."""
    token = _bound.set(context)
    try:
        yield context
    finally:
        _bound.reset(token)


def require(context: TokenContext, method: str, *names: str) -> dict[str, Any]:
    """The named fields of `context`, all of them present.

    Args:
        context: where to look.
        method: the method that asks, for the error.
        *names: fields of `TokenContext`.

    Returns:
        name -> value.

    Raises:
        MissingTokenData: one or more are None; the message names each with the setting that provides it.
    """
    unknown = set(names) - {field.name for field in fields(TokenContext)}
    assert not unknown, f"TokenContext has no field {sorted(unknown)}"
    missing = [name for name in names if getattr(context, name) is None]
    if missing:
        faults = "".join(f"\n  - {name}: {PROVIDERS[name]}" for name in missing)
        raise MissingTokenData(f"`{method}` needs token data that this call does not carry:{faults}")
    return {name: getattr(context, name) for name in names}

"""Entropy of each row of a matrix of log-probabilities, without a second matrix of that size."""

from __future__ import annotations

import torch

from verl_ext.rollout.payload import encode

# In nats. The probability of anything less likely is 0 in float32, so that lowering inf to it changes no product.
HIGHEST_SURPRISAL = 128.0


# One pass that keeps nothing of the size of its input; vLLM compiles the pass it replaces in the same way. In float32
# the sum over 151,936 tokens would be off by 2e-5; in float64 it costs a sixth more time.
@torch.compile(dynamic=True)
def _expected_surprisal(log_probs: torch.Tensor) -> torch.Tensor:
    surprisal = (-log_probs).clamp_max(HIGHEST_SURPRISAL)
    return (log_probs.exp() * surprisal).sum(-1, dtype=torch.float64).float()


def entropies(log_probs: torch.Tensor) -> torch.Tensor:
    """H = sum_v p_v (-log p_v) of every row; a token of probability 0 adds nothing.

    Args:
        log_probs: [B, V] float32, normalised; -inf is a token that cannot be sampled.

    Returns:
        [B] float32, nats. NaN where a row holds a NaN.

    Example:
        >>> half = torch.tensor([[0.5, 0.5, 0.0]])
        >>> round(float(entropies(half.log())), 6)
        0.693147
    """
    if len(log_probs) == 0:
        return log_probs.new_empty(0)
    return _expected_surprisal(log_probs)


def tagged_entropies(log_probs: torch.Tensor) -> torch.Tensor:
    """`entropies` as the int64 payload that replaces a rank; where Triton runs, by a kernel of our own."""
    if log_probs.is_cuda:
        from verl_ext.rollout.kernels import tagged_entropies as fused

        return fused(log_probs)
    return encode(entropies(log_probs))

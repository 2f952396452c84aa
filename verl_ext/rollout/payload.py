"""How an entropy travels in the place of a rank.

vLLM hands back, with each sampled token, an int64 that says how many tokens were at least as likely. Nothing on the
way from the sampler to the client looks at it. With the tap it holds ``TAG | bits``: the 32 bits of the entropy as a
float32, and one bit above them that no rank can have (a vocabulary has fewer than 2^32 tokens), so that the answer of
an engine without the tap is told apart and never decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

TAG = 1 << 40
BITS = (1 << 32) - 1


class UntaggedRankError(RuntimeError):
    """A rank that carries no entropy: the engine that made it does not run the tap."""


def encode(entropies: torch.Tensor) -> torch.Tensor:
    """Entropies [B], nats -> tagged int64 [B], bit for bit, NaN and infinities included.

    Example:
        >>> import torch
        >>> encode(torch.tensor([0.0, 1.0])).tolist() == [TAG, TAG + 0x3F800000]
        True
    """
    import torch

    return (entropies.float().contiguous().view(torch.int32).to(torch.int64) & BITS) | TAG


def decode(ranks: Sequence[int | None]) -> list[float]:
    """Tagged ranks of consecutive tokens -> entropies in nats.

    Raises:
        UntaggedRankError: a rank has no tag; says which and why that can be.

    Example:
        >>> decode([TAG, TAG + 0x3F800000])
        [0.0, 1.0]
    """
    for position, rank in enumerate(ranks):
        if rank is None or rank & ~BITS != TAG:
            raise UntaggedRankError(
                f"token {position} came back with rank {rank} instead of an entropy: the tap does not run in the "
                "engine's worker. Either another request of the same batch asked for logprobs >= 1, or the engine "
                "does not return processed_logprobs, or the plugin is not loaded in it (is verl-ext installed there, "
                "and does VLLM_PLUGINS, if set, name verl_ext?)"
            )
    return (np.array(ranks, dtype=np.int64) & BITS).astype(np.uint32).view(np.float32).tolist()

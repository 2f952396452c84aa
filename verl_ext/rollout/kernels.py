"""The entropy pass as a Triton kernel: one read of the matrix, nothing of its size written.

Imported only where it runs, as importing it needs Triton.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from verl_ext.rollout.payload import TAG

if TYPE_CHECKING:
    import torch

BLOCK_SIZE = 8192
_TAG = tl.constexpr(TAG)


@triton.jit
def tagged_entropy_kernel(  # type: ignore[no-untyped-def]
    output_ptr,
    logits_ptr,
    logits_stride,
    token_ids_ptr,
    vocab_size,
    BLOCK_SIZE: tl.constexpr,
):
    """Entropy of softmax(row), tagged, in place of the rank of ``token_ids_ptr[row]``.

    The arguments are those of vLLM's ``_ranks_kernel``, which it stands in for; the token does not matter here.
    With m the running maximum, s = sum exp(x - m) and t = sum exp(x - m) (x - m): H = log s - t / s. Log-probs are
    logits whose s is 1 already.
    """
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * logits_stride
    m = float("-inf")
    s = 0.0
    t = 0.0
    for start in range(0, vocab_size, BLOCK_SIZE):
        column = start + tl.arange(0, BLOCK_SIZE)
        x = tl.load(row_ptr + column, mask=column < vocab_size, other=float("-inf")).to(tl.float32)
        highest = tl.maximum(m, tl.max(x))
        # As long as all was -inf nothing has been added up, and -inf - -inf would be NaN.
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        moved = tl.where(s > 0, m - shift, 0.0)
        e = tl.exp(x - shift)
        t = tl.exp(moved) * (t + s * moved) + tl.sum(tl.where(x == float("-inf"), 0.0, e * (x - shift)))
        s = tl.exp(moved) * s + tl.sum(e)
        m = highest
    entropy = tl.log(s) - t / s
    bits = entropy.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    tl.store(output_ptr + row, bits | _TAG)


def tagged_entropies(logits: torch.Tensor) -> torch.Tensor:
    """Tagged entropies [B] int64 of softmax(logits), logits [B, V] in any float type, nats."""
    import torch

    found = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    if len(logits):
        tagged_entropy_kernel[(len(logits),)](
            found, logits, logits.stride(0), found, logits.shape[1], BLOCK_SIZE=BLOCK_SIZE
        )
    return found

"""Run as a program, with TRITON_INTERPRET=1: every case of the kernel. Prints RESULT and one JSON object.

Each case is a list of entropies found, and the same in float64 from the definition. JSON here knows NaN.
"""

from __future__ import annotations

import json
import math
import warnings

import torch

from verl_ext.rollout import kernels
from verl_ext.rollout.payload import decode

# The interpreter is numpy, which warns of the inf - inf that the kernel computes and then does not choose.
warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")

INF = math.inf


def found(logits: torch.Tensor, block: int) -> list[float]:
    output = torch.full((len(logits),), -1, dtype=torch.int64)
    kernels.tagged_entropy_kernel[(len(logits),)](
        output, logits, logits.stride(0), output, logits.shape[1], BLOCK_SIZE=block
    )
    return decode(output.tolist())


def expected(logits: torch.Tensor) -> list[float]:
    probs = logits.double().softmax(-1)
    return (-torch.special.xlogy(probs, probs).sum(-1)).tolist()


def case(logits: torch.Tensor, block: int = 64) -> dict[str, list[float]]:
    return {"found": found(logits, block), "expected": expected(logits)}


def with_inf(*rows: tuple[int, int], kept: int = 200) -> torch.Tensor:
    """One row a pair: -inf from the first to the second column of `kept`."""
    logits = torch.randn(len(rows), kept, generator=torch.Generator().manual_seed(1)) * 3
    for row, (first, last) in enumerate(rows):
        logits[row, first:last] = -INF
    return logits


def cases() -> dict[str, dict[str, list[float]]]:
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(5, 259, generator=generator) * 3
    many = torch.randn(2, 151936, generator=generator) * 3
    # The kernel must not look beyond a row: what is there is NaN.
    apart = torch.full((5, 400), math.nan)[:, :259]
    apart.copy_(random)
    one_left = torch.full((3, 200), -INF)
    for row, column in enumerate((0, 130, 199)):
        one_left[row, column] = -7.0
    low = with_inf((0, 64), (0, 130), (0, 0)) - 1e3
    nan = random[:3].clone()
    nan[0, 0] = nan[1, 258] = math.nan
    nan_after_inf = with_inf((0, 199), (0, 64))
    nan_after_inf[0, 199] = nan_after_inf[1, 70] = math.nan
    spread = torch.randn(4, 300, generator=generator) * 1e4
    spread[1], spread[2] = spread[1].sort().values, spread[2].sort(descending=True).values
    bands = torch.full((2, 300), -1e4)
    bands[0, 70:80], bands[1, 290:] = 1e4, 1e4
    return {
        "float32": case(random),
        "float16": case(random.half()),
        "bfloat16": case(random.bfloat16()),
        "row stride": case(apart),
        "log-probs": case(random.log_softmax(-1)),
        "shifted": case(random + 50),
        "one block, larger than the row": case(random, block=512),
        "one block, as large as the row": case(random[:, :256].contiguous(), block=256),
        "vocabulary of 1": case(torch.tensor([[3.0], [-INF]])[:1]),
        "vocabulary of 2": case(torch.tensor([[0.0, 0.0], [1.0, -1.0]])),
        "large vocabulary, the block that is used": case(many, block=kernels.BLOCK_SIZE),
        "uniform": case(torch.zeros(2, 259)),
        "spread of 1e4": case(spread),
        "ten at 1e4, the others at -1e4": case(bands),
        "-inf first, first block, first two blocks, middle, last": case(
            with_inf((0, 1), (0, 64), (0, 128), (50, 150), (180, 200))
        ),
        "all but one -inf": case(one_left),
        "low ones after blocks of -inf": case(low),
        "all -inf": case(torch.full((2, 200), -INF)),
        "NaN first, NaN last, none": case(nan),
        "NaN after -inf": case(nan_after_inf),
    }


def wrapper() -> dict[str, list[float]]:
    """The function that allocates and launches, with more rows than one and with none."""
    logits = torch.randn(3, 259, generator=torch.Generator().manual_seed(2))
    assert kernels.tagged_entropies(logits[:0]).shape == (0,)
    return {"found": decode(kernels.tagged_entropies(logits).tolist()), "expected": expected(logits)}


if __name__ == "__main__":
    print("RESULT " + json.dumps({**cases(), "through the function": wrapper()}), flush=True)

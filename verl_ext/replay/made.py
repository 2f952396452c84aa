"""A made batch, for examples and tests: nobody has to train to see what replay and calibrate print.

`python -m verl_ext.replay.made FILE.parquet` writes one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verl_ext import batch_file

VOCAB = 4096


def columns(rows: int = 64, seed: int = 0) -> Mapping[str, Sequence[Any]]:
    """Rows of an imagined run some updates after the rollout.

    Responses have 40 to 120 tokens and segments of about 20. The entropy of a token is drawn from a gamma distribution
    around its segment's, and a token of higher entropy has moved further: log ratios are normal with a standard
    deviation of 0.02 + 0.1 H, around 0.001 times the advantage. One segment in twenty has moved as a whole.

    Args:
        rows: B.
        seed: of the numbers.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[Any]] = {name: [] for name in ("key", "uid", "response_mask", "segment_ids", "advantages")}
    found |= {name: [] for name in ("old_log_probs", "log_probs", "entropy", "current_entropy")}
    for row in range(rows):
        length = int(rng.integers(40, 121))
        segments = np.cumsum(rng.random(length) < 0.05)
        level = rng.gamma(2.0, 0.15, size=segments[-1] + 1)[segments]
        entropy = rng.gamma(0.6, level / 0.6)
        advantage = 1.0 if rng.random() < 0.4 else -0.67
        old = -rng.exponential(0.02 + entropy)
        moved = rng.normal(0.001 * advantage, 0.02 + 0.1 * entropy)
        jumps = rng.normal(0, 0.4, size=segments[-1] + 1) * (rng.random(segments[-1] + 1) < 0.05)
        moved += jumps[segments]
        found["key"].append(f"{row // 8}_0_{row % 8}")
        found["uid"].append(str(row // 8))
        found["response_mask"].append(np.ones(length))
        found["segment_ids"].append(segments - segments[0])
        found["advantages"].append(np.full(length, advantage))
        found["old_log_probs"].append(old)
        found["log_probs"].append(np.minimum(old + moved, 0))
        found["entropy"].append(entropy)
        found["current_entropy"].append(np.maximum(entropy - 0.02 * rng.random(length), 0))
    return found


def write(path: Path, rows: int = 64, seed: int = 0) -> None:
    """Write such rows as a file of a token export."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"loss": "sspo", "hyper_parameters": {"delimiter": "\n\n"}, "vocab_size": VOCAB, "run": "made"}
    batch_file.write(path, columns(rows, seed), step=1, about=about)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""vLLM's entropies and log-probs on the GPU against transformers, with either of its model runners."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from verl_ext.gpu_check.outcome import demand

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
VOCABULARY = 32_000


def v1(device: str) -> dict[str, Any]:
    """The V1 runner."""
    return compared("0")


def v2(device: str) -> dict[str, Any]:
    """The V2 runner."""
    return compared("1")


def compared(runner: str) -> dict[str, Any]:
    """`verl-ext doctor entropies` of a tiny dense model with random weights, in vLLM's own choice of type."""
    from verl_ext.entropy_check.command import judge
    from verl_ext.entropy_check.engine import run_engine
    from verl_ext.entropy_check.request import Request, prepare
    from verl_ext.toy.models import build_untrained

    os.environ[RUNNER] = runner
    with tempfile.TemporaryDirectory(prefix="verl-ext-") as folder:
        model = build_untrained("tiny_dense", False, Path(folder, "model"), seed=0, vocab_size=VOCABULARY)
        request = Request(str(model), samples=4)
        prepared = prepare(request)
        answer = run_engine(prepared.job)
        report = judge(request, prepared, answer)
    rows = [figures_of(row) for row in report.rows]
    demand(report.ok, f"beyond the limits of verl-ext doctor entropies: {rows}")
    return {"vllm": answer.vllm, "dtype": answer.dtype, "rows": rows}


def figures_of(row: Any) -> dict[str, float]:
    """What a temperature's comparison measured."""
    return {name: value for name, value in vars(row).items() if isinstance(value, int | float)}

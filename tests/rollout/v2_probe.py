"""Run as a program, with TRITON_INTERPRET=1: vLLM's V2 gathering of log-probs, with the tap and without.

Usage: python v2_probe.py FILE|installed ... FILE is ``vllm/v1/worker/gpu/sample/logprob.py`` of another vLLM; what
it imports from vLLM comes from the installed one. Prints RESULT and a list with one JSON object for each argument.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from verl_ext.rollout import tap

warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")

LOGPROB = "vllm.v1.worker.gpu.sample.logprob"
TOKENS = torch.tensor([5, 299, 0, 17])


def use_triton_in_vllm() -> None:
    """vLLM puts dummies in Triton's place where it finds no GPU; give it the interpreter instead.

    To be called before the modules of vLLM that hold kernels are imported.
    """
    import triton
    import triton.language
    import vllm.triton_utils

    assert triton.knobs.runtime.interpret, "TRITON_INTERPRET=1 is to be set before Triton is imported"
    for name in ("vllm.v1.worker.gpu.buffer_utils", "vllm.v1.worker.gpu.sample.logprob"):
        assert name not in sys.modules, f"{name} was imported with the dummies already"
    vllm.triton_utils.triton = triton
    vllm.triton_utils.tl = triton.language
    vllm.triton_utils.HAS_TRITON = True


def load(where: str) -> ModuleType:
    if where == "installed":
        return importlib.import_module(LOGPROB)
    spec = importlib.util.spec_from_file_location("other_logprob", where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def gathering(module: ModuleType) -> tuple[str, Callable[..., Any]]:
    (name,) = [name for name in ("compute_topk_scores", "compute_topk_logprobs") if hasattr(module, name)]
    return name, getattr(module, name)


def plain(tensors: Any) -> dict[str, Any]:
    """The three tensors; a rank is what matters here, its type included."""
    return {
        "tokens": tensors.logprob_token_ids.tolist(),
        "logprobs": tensors.logprobs.tolist(),
        "ranks": tensors.selected_token_ranks.tolist(),
        "dtype": str(tensors.selected_token_ranks.dtype),
    }


def own_tokens() -> dict[str, Any]:
    """What a request that named tokens 1 and 2 brings along."""
    state = SimpleNamespace(
        num_token_ids=SimpleNamespace(gpu=torch.tensor([2, 0, 0, 0], dtype=torch.int32)),
        token_ids=SimpleNamespace(gpu=torch.tensor([[1, 2]] * 4, dtype=torch.int32)),
    )
    return {
        "logprob_token_ids_state": state,
        "expanded_idx_mapping": torch.arange(4),
        "max_per_req_token_ids": 2,
    }


def calls(logits: torch.Tensor, gather: Callable[..., Any]) -> dict[str, Any]:
    return {
        "sampled only": plain(gather(logits, 0, TOKENS, None)),
        "top 2": plain(gather(logits, 2, TOKENS, None)),
        "own tokens": plain(gather(logits, 0, TOKENS, None, **own_tokens())),
    }


def tapped_and_not(where: str) -> dict[str, Any]:
    module = load(where)
    name, original = gathering(module)
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)) * 3
    logits[1, 40:90] = -torch.inf
    before = logits.clone()
    result: dict[str, Any] = {"function": name, "untapped": calls(logits, original)}

    tap.tap_v2_logprob(module)
    # A module that imported the function by its name, as the samplers do.
    importer = SimpleNamespace(**{name: original})
    tap._tap_v2_gathering(importer)  # type: ignore[arg-type]
    tapped = getattr(importer, name)
    with tap.bound(tap._processed, True):
        result["tapped"] = calls(logits, tapped)
        result["bfloat16"] = plain(tapped(logits.bfloat16(), 0, TOKENS))
        # Prompt log-probs: the same function, by the name in its own module, in the same engine.
        result["not through a sampler"] = calls(logits, original)
    result["another mode"] = calls(logits, tapped)
    result["in the end"] = calls(logits, original)
    assert logits.equal(before)
    result["logits"] = logits.tolist()
    return result


if __name__ == "__main__":
    use_triton_in_vllm()
    print("RESULT " + json.dumps([tapped_and_not(where) for where in sys.argv[1:]]), flush=True)

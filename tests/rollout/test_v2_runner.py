"""The tap in the V2 runner's gathering of log-probs, run by Triton's interpreter; needs no GPU.

What runs: of vLLM 0.28.0 the module ``vllm.v1.worker.gpu.sample.logprob`` as installed; of 0.24.0 the same one file,
taken out of the wheel, over the other modules of the installed vLLM. Both with Triton's own `triton` and `tl` in the
place of the dummies that vLLM puts there without a GPU. What is only read (`test_contract`): the samplers of the
V2 runner that call it, which need pinned memory of a GPU, and the rest of 0.24.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rollout import interpreter, vllm_sources
from verl_ext.rollout.payload import UntaggedRankError, decode

FILE = "vllm/v1/worker/gpu/sample/logprob.py"
REQUESTS = ("sampled only", "top 2", "own tokens")


@pytest.fixture(scope="module")
def results(
    triton_folder: Path,
    other_sources_or_why_not: vllm_sources.Sources | str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """By version. One process for both, as most of its time is the import of vLLM."""
    if isinstance(other_sources_or_why_not, str):
        return interpreter.run(triton_folder, "v2_probe.py", "installed")
    path: Path = tmp_path_factory.mktemp("other") / "logprob.py"
    path.write_text(other_sources_or_why_not.files[FILE])
    return interpreter.run(triton_folder, "v2_probe.py", "installed", path)


@pytest.fixture(params=["installed", "other"])
def result(request: pytest.FixtureRequest, results: Any) -> Any:
    if request.param == "installed":
        return results[0]
    request.getfixturevalue("other_sources")  # skips without it
    assert results[1]["function"] == "compute_topk_logprobs"
    return results[1]


def test_entropies_take_the_place_of_ranks(result: Any) -> None:
    """`tap_v2_logprob` and the wrapped gathering function, inside a sampler of mode processed_logprobs, with
    ``logprobs=0``: tokens and log-probs bit for bit the same, ranks int64 as before and tagged."""
    logits = torch.tensor(result["logits"], dtype=torch.float64)
    probs = logits.softmax(-1)
    expected = -torch.special.xlogy(probs, probs).sum(-1)
    tapped, untapped = result["tapped"]["sampled only"], result["untapped"]["sampled only"]
    assert decode(tapped["ranks"]) == pytest.approx(expected.tolist(), abs=1e-5)
    chosen = logits.gather(1, torch.tensor(tapped["tokens"]))
    assert untapped["ranks"] == (logits >= chosen).sum(-1).tolist()
    assert tapped == {**untapped, "ranks": tapped["ranks"]}
    assert tapped["dtype"] == "torch.int64"


def test_logits_of_the_models_own_type(result: Any) -> None:
    """vLLM 0.28 hands over bfloat16 logits where nothing is to be done to them; entropies are of these."""
    logits = torch.tensor(result["logits"]).bfloat16().double()
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert decode(result["bfloat16"]["ranks"]) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("request_", ["top 2", "own tokens"])
def test_whoever_asks_for_more_gets_ranks(result: Any, request_: str) -> None:
    assert result["tapped"][request_] == result["untapped"][request_]
    with pytest.raises(UntaggedRankError, match="token 0 came back with rank"):
        decode(result["tapped"][request_]["ranks"])


@pytest.mark.parametrize("caller", ["not through a sampler", "another mode", "in the end"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_everybody_else_gets_ranks(result: Any, caller: str, request_: str) -> None:
    """Prompt log-probs call the function by the name in their own module, which is not wrapped (read: see
    `test_contract`; run: this very function, called so while a sampler's flag is up)."""
    assert result[caller][request_] == result["untapped"][request_]
    assert max(result[caller][request_]["ranks"]) <= 300

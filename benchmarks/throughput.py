"""`python -m benchmarks.throughput`: decoding with entropies against decoding with log-probs only, in one engine.

One engine, one set of prompts, rounds A B B A: what differs between the two sides is only whether the tap acts on the
call. The log-probs are asked for on both sides, as verl does.
"""

from __future__ import annotations

import os
import tempfile
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.__main__ import warn_if_busy
from benchmarks.paired import bootstrap_interval, paired_ratios

# hidden size, layers, heads, key-value heads, size of the MLP
MODELS = {
    "two-layers": (64, 2, 2, 2, 128),
    "half-billion": (896, 24, 14, 2, 4864),
}
VOCABULARY = 151_936
LIMIT = 0.97

console = Console()


def main(
    model: Annotated[str, typer.Option(help=f"one of {', '.join(MODELS)}")] = "half-billion",
    rounds: Annotated[int, typer.Option(help="paired rounds, at least 8")] = 8,
    sequences: Annotated[int, typer.Option(help="decoded at the same time")] = 32,
    tokens: Annotated[int, typer.Option(help="of each sequence")] = 16,
    threads: Annotated[int, typer.Option(help="CPU threads of the engine")] = 2,
) -> None:
    """Print the ratio of tokens a second, with its interval; fails if the whole interval lies below 0.97."""
    # One process, so that the tap can be switched; threads are bound before torch is imported.
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VERL_PLATFORM="cpu",
        VLLM_CPU_KVCACHE_SPACE="2",
        OMP_NUM_THREADS=str(threads),
        VERL_EXT_ROLLOUT_ENTROPIES="1",
    )
    warn_if_busy()
    llm = engine(model, sequences)

    from vllm import SamplingParams

    from verl_ext.rollout import tap

    settings = SamplingParams(temperature=1.0, max_tokens=tokens, logprobs=0, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": [1000 + sequence] * 4} for sequence in range(sequences)]
    mode = tap.MODE

    def generate(tapped: bool) -> None:
        tap.MODE = mode if tapped else "switched off"
        completions = [output.outputs[0] for output in llm.generate(prompts, settings, use_tqdm=False)]
        ranks = [
            step[token].rank for one in completions for token, step in zip(one.token_ids, one.logprobs, strict=True)
        ]
        assert len(ranks) == sequences * tokens
        assert all((rank >= 1 << 32) == tapped for rank in ranks), "the switch had no effect"

    # Seconds without over seconds with are tokens a second with over tokens a second without.
    ratios = paired_ratios(lambda: generate(False), lambda: generate(True), rounds)
    low, high = bootstrap_interval(ratios)
    middle = sorted(ratios)[len(ratios) // 2]
    console.print(
        f"{model}, vocabulary {VOCABULARY}, {sequences} sequences, {tokens} tokens each, {rounds} rounds: throughput "
        f"with entropies over log-probs only: median {middle:.3f}, 95% interval {low:.3f} to {high:.3f}"
    )
    console.print("rounds: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
    if high < LIMIT:
        raise typer.Exit(1)


def engine(model: str, sequences: int) -> Any:
    """A real engine with random weights in float32."""
    import torch
    import verl  # noqa: F401  (loads the plugin)
    from transformers import AutoModelForCausalLM, Qwen2Config
    from vllm import LLM

    from verl_ext.rollout import tap
    from verl_ext.toy.models import build_tokenizer

    hidden, layers, heads, key_value_heads, mlp = MODELS[model]
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        intermediate_size=mlp,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        return LLM(
            folder,
            dtype="float32",
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=sequences,
            logprobs_mode=tap.MODE,
        )


if __name__ == "__main__":
    typer.run(main)

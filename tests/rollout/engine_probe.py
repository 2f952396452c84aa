"""Run as a program: sample from a real, tapped vLLM and compare every token with a float64 forward pass.

Usage: python engine_probe.py tiny_dense|tiny_moe VOCABULARY SUITE... Prints RESULT and one JSON object: for each
suite the records of its cases, one for each response. A program of its own because vLLM reads its settings once in a
process. The suites ``basic``, ``requests``, ``drafts`` and ``raw`` start an engine in this process, ``resumed`` one
with its core in another, as verl's server does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

SUITES = sys.argv[3:]
os.environ.update(VERL_PLATFORM="cpu", VLLM_CPU_KVCACHE_SPACE="1")
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING=str(int("resumed" in SUITES)))

# Small, so that longer prompts are prefilled in chunks, beside requests that decode already.
BUDGET = 32
SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 16,
    "max_num_batched_tokens": BUDGET,
    "block_size": 32,
    "logprobs_mode": "processed_logprobs",
}
# A random model is nearly uniform; a larger output head spreads its entropies. Not too large: float32 rounds a
# log-prob in proportion to the logits.
SPREAD = 3.0
SPREAD_LARGE = 2.5
END, X, Y = 257, ord("x"), ord("y")

Request = tuple[list[int], dict[str, Any]]
Record = dict[str, Any]


def processed(logits: Any, options: dict[str, Any]) -> Any:
    """The logits [T, V] of T sampled tokens as vLLM's processors leave them, written anew from the documentation."""
    for token, bias in options.get("logit_bias", {}).items():
        logits[:, token] += bias
    for word in options.get("bad_words", []):
        logits[:, ord(word)] = -float("inf")
    if "min_tokens" in options:
        logits[: options["min_tokens"], [END, *options.get("stop_token_ids", [])]] = -float("inf")
    if "allowed_token_ids" in options:
        allowed = logits[:, options["allowed_token_ids"]].clone()
        logits.fill_(-float("inf"))[:, options["allowed_token_ids"]] = allowed
    return logits / (options["temperature"] or 1.0)


def reference(logits: Any, ids: list[int]) -> dict[str, list[float]]:
    """Entropy of each row of float64 logits [T, V]; log-prob and rank of its token."""
    import torch

    log_probs = torch.log_softmax(logits, -1)
    own = log_probs.gather(1, torch.tensor(ids)[:, None])
    return {
        "entropies": torch.special.entr(log_probs.exp()).sum(-1).tolist(),
        "log_probs": own[:, 0].tolist(),
        "ranks": (log_probs >= own).sum(-1).tolist(),
    }


def record(model: Any, case: str, request: Request, answer: Any, cached: int | None = None) -> Record:
    """What came back of one response, and what a float64 forward pass over prompt and response says."""
    import torch

    prompt, options = request
    ids = list(answer.token_ids)
    with torch.no_grad():
        hidden = model.model(torch.tensor([prompt + ids])).last_hidden_state[0, len(prompt) - 1 : -1]
        logits = model.lm_head(hidden)
    return {
        "case": case,
        "options": options,
        "prompt": len(prompt),
        "ids": ids,
        "text": answer.text,
        "finish": answer.finish_reason,
        "cached": cached,
        "ranks": [step[token].rank for step, token in zip(answer.logprobs, ids, strict=True)],
        "log_probs": [step[token].logprob for step, token in zip(answer.logprobs, ids, strict=True)],
        "plain": reference(logits, ids),
        "expected": reference(processed(logits.clone(), options), ids),
    }


def prompt_record(model: Any, prompt: list[int], steps: list[Any]) -> Record:
    """Ranks of the prompt's tokens, of the plain distribution; the first has none."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, :-1]
    ranks = [step[token].rank for step, token in zip(steps[1:], prompt[1:], strict=True)]
    return {"ranks": ranks, "expected": reference(logits, prompt[1:])}


class Engine:
    """vLLM in this process, and how many tokens of which request it computed at each step."""

    def __init__(self, folder: str, model: Any, **settings: Any) -> None:
        from vllm import LLM

        self.model = model
        self.llm = LLM(folder, **{**SETTINGS, **settings})
        self.steps: list[dict[str, int]] = []
        scheduler = self.llm.llm_engine.engine_core.engine_core.scheduler
        schedule = scheduler.schedule

        def watched(*args: Any, **kwargs: Any) -> Any:
            planned = schedule(*args, **kwargs)
            self.steps.append(dict(planned.num_scheduled_tokens))
            return planned

        scheduler.schedule = watched

    def ask(self, case: str, requests: list[Request]) -> Iterator[tuple[Record, Any]]:
        """Answer all requests in one batch; a record for each response, with vLLM's own output."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
        params = [SamplingParams(**{"logprobs": 0, **options}) for _, options in requests]
        for request, output in zip(requests, self.llm.generate(prompts, params, use_tqdm=False), strict=True):
            for answer in output.outputs:
                yield record(self.model, case, request, answer, output.num_cached_tokens), output

    def records(self, case: str, requests: list[Request]) -> list[Record]:
        return [found for found, _ in self.ask(case, requests)]


def prompts(vocabulary: int, *lengths: int) -> list[list[int]]:
    """Prompts of ids from the whole vocabulary."""
    import torch

    generator = torch.Generator().manual_seed(7)
    return [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]


def basic(folder: str, model: Any) -> dict[str, Any]:
    """Both temperatures and several lengths in one batch, chunked prefill, eight responses, a cached prefix."""
    engine = Engine(folder, model)
    fixed = {"ignore_eos": True, "max_tokens": 10}
    *several, long = prompts(model.config.vocab_size, 3, 17, 90, 41, 100)
    lengths = [
        (prompt, {**fixed, "temperature": t, "max_tokens": 6 + 3 * i})
        for i, (prompt, t) in enumerate(zip(several, (0.6, 1.0, 1.0, 0.6), strict=True))
    ]
    found = engine.records("lengths", lengths)
    steps = list(engine.steps)
    for case, temperature in (("first eight", 0.6), ("second eight", 1.0)):
        found += engine.records(case, [(long, {**fixed, "temperature": temperature, "n": 8})])
    return {"records": found, "steps": steps, **(requests(engine) if "requests" in SUITES else {})}


def requests(engine: Engine) -> dict[str, Any]:
    """Requests that change the distribution, end early, or ask for other log-probs."""
    fixed = {"ignore_eos": True, "max_tokens": 12, "temperature": 1.0}
    a, b, c, d = prompts(259, 5, 23, 40, 60)
    greedy = {**fixed, "temperature": 0.0}
    found = engine.records("temperatures", [(a, {**fixed, "temperature": 0.6}), (c, fixed), (b, greedy)])
    found += engine.records("greedy", [(a, greedy), (b, greedy)])
    banned = [
        (a, {**fixed, "temperature": 0.6, "allowed_token_ids": list(range(60, 90))}),
        (b, {**fixed, "bad_words": ["A", "0", "z"]}),
        (c, {"temperature": 1.0, "max_tokens": 40, "min_tokens": 8, "stop_token_ids": list(range(100))}),
        (d, {**fixed, "temperature": 0.6, "logit_bias": {7: 4.0, 200: -100.0}}),
    ]
    found += engine.records("banned", banned)
    stops = {"max_tokens": 80, "logit_bias": {X: 6.0, Y: 6.0}, "stop": ["xy"]}
    found += engine.records("stop string", [(p, {**stops, "temperature": 1.0}) for p in (a, b, c, d)])
    ((last, output),) = engine.ask("prompt log-probs", [(c, {**fixed, "prompt_logprobs": 0})])
    return {
        "requests": [*found, last],
        "prompt": prompt_record(engine.model, c, output.prompt_logprobs),
        "two": engine.records("two", [(b, {**fixed, "logprobs": 2})]),
        "beside two": engine.records("beside two", [(a, fixed), (b, {**fixed, "logprobs": 2})]),
    }


def expanded(x: Any, cu_num_tokens: Any, num_tokens: int, replace_from: int = 0, replace_to: int = 0) -> Any:
    """[batch] to [num_tokens], in place of vLLM's ``expand_batch_to_tokens``.

    The CPU build of 0.28.0 writes the result into an int64 copy of a float tensor and returns the tensor itself, which
    was never filled: the temperatures of draft tokens are then whatever the memory held, with and without the tap.
    """
    import torch

    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    return torch.where(x == replace_from, replace_to, x).repeat_interleave(counts, output_size=num_tokens).to(x.dtype)


def drafts(folder: str, model: Any) -> dict[str, Any]:
    """Speculative decoding; where two tokens are allowed, the n-grams of what was sampled are often right."""
    from vllm.v1.sample import rejection_sampler

    rejection_sampler.expand_batch_to_tokens = expanded
    speculative = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
    engine = Engine(folder, model, speculative_config=speculative, disable_log_stats=False)
    a, b, c, d = prompts(259, 5, 23, 40, 60)
    fixed = {"ignore_eos": True, "max_tokens": 30}
    few = {**fixed, "allowed_token_ids": [X, Y]}
    found = engine.records("drafts", [(p, {**few, "temperature": t}) for p, t in ((a, 0.6), (b, 1.0))])
    mixed = [{**few, "temperature": 1.0}, {**few, "temperature": 0.0}, {**fixed, "temperature": 0.6}]
    found += engine.records("mixed drafts", list(zip((c, d, a), mixed, strict=True)))
    found += engine.records("greedy drafts", [(p, {**few, "temperature": 0.0}) for p in (a, d)])
    counts = {metric.name: getattr(metric, "value", None) for metric in engine.llm.get_metrics()}
    return {
        "records": found,
        "accepted": counts["vllm:spec_decode_num_accepted_tokens"],
        "drafted": counts["vllm:spec_decode_num_draft_tokens"],
    }


def raw(folder: str, model: Any) -> dict[str, Any]:
    """Log-probs of the distribution before it was processed."""
    return unlike(Engine(folder, model, logprobs_mode="raw_logprobs"))


def untapped(folder: str, model: Any) -> dict[str, Any]:
    """For a process whose environment does not ask for the tap."""
    return unlike(Engine(folder, model))


def unlike(engine: Engine) -> dict[str, Any]:
    options = {"ignore_eos": True, "max_tokens": 12, "temperature": 0.6}
    return {"records": engine.records("unlike", [(prompt, options) for prompt in prompts(259, 5, 40)])}


def resumed(folder: str, model: Any) -> dict[str, Any]:
    """Responses aborted in the middle and resumed, as verl does around a weight update."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=folder, **SETTINGS))
    requests = [
        (prompt, {"ignore_eos": True, "max_tokens": 60, "temperature": t})
        for prompt, t in zip(prompts(259, 5, 50, 90), (1.0, 0.6, 1.0), strict=True)
    ]
    try:
        pieces = asyncio.run(interrupted(engine, requests))
    finally:
        engine.shutdown()
    answers = [[record(model, "piece", *piece) for piece in answer] for answer in pieces]
    return {"answers": answers, "requests": [[prompt, options] for prompt, options in requests]}


async def interrupted(engine: Any, requests: list[Request]) -> list[list[tuple[Request, Any]]]:
    """The pieces of each response, in order, with the request that each piece answers."""
    pieces: list[list[tuple[Request, Any]]] = [[] for _ in requests]
    for attempt, limit in enumerate((9, 21, None)):
        seen = [0] * len(requests)
        tasks = [
            asyncio.create_task(piece(engine, f"{i}-{attempt}", i, continued(requests[i], pieces[i]), seen))
            for i in range(len(requests))
        ]
        if limit is not None:
            while min(seen) < limit:
                await asyncio.sleep(0)
            await engine.pause_generation(wait_for_inflight_requests=False, clear_cache=True)
            await engine.resume_generation()
        for found, task in zip(pieces, tasks, strict=True):
            found.append(await task)
    return pieces


def continued(request: Request, pieces: list[tuple[Request, Any]]) -> Request:
    """The request that asks for what is missing: the tokens so far have become prompt."""
    prompt, options = request
    done = [token for _, answer in pieces for token in answer.token_ids]
    return [*prompt, *done], {**options, "max_tokens": options["max_tokens"] - len(done)}


async def piece(engine: Any, name: str, index: int, request: Request, seen: list[int]) -> tuple[Request, Any]:
    from vllm import SamplingParams

    prompt, options = request
    params = SamplingParams(logprobs=0, **options)
    async for output in engine.generate({"prompt_token_ids": prompt}, params, name):
        answer = output.outputs[0]
        seen[index] = len(answer.token_ids)
    return request, answer


def main(kind: str, vocabulary: int) -> None:
    import torch

    from verl_ext.toy.models import build_model, save

    model = build_model(kind, tied=False, seed=0, vocab_size=vocabulary)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(SPREAD if vocabulary < 1000 else SPREAD_LARGE)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        # Of the ways in which transformers computes experts, only this one takes float64.
        model.set_experts_implementation("eager")
        exact = model.double()
        starts = {"basic": basic, "drafts": drafts, "raw": raw, "untapped": untapped, "resumed": resumed}
        for suite, start in starts.items():
            if suite in SUITES:
                result[suite] = start(folder, exact)
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

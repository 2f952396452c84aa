"""In the rollout: switch the tap on in the servers, and send each token's entropy along with its log-prob."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from verl_ext.rollout import payload, source, tap
from verl_ext.rollout.token_log_prob import joined

# The latest output of the request that the running call of ``generate`` waits for.
_latest: ContextVar[list[Any] | None] = ContextVar("verl_ext_latest_output", default=None)


def bind_manager(llm_server: ModuleType) -> None:
    """Called when ``verl.workers.rollout.llm_server`` has been imported: leave word for the servers.

    A server is given the rollout's part of the configuration only, so what was decided from the whole goes into
    ``rollout.custom``.
    """
    cls = llm_server.LLMServerManager
    original = cls.__init__

    @functools.wraps(original)
    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        if source.resolve(config).tap:
            from omegaconf import open_dict

            rollout = config.actor_rollout_ref.rollout
            with open_dict(rollout):
                rollout.custom = {**(rollout.get("custom", None) or {}), source.CUSTOM: True}
        original(self, config, *args, **kwargs)

    cls.__init__ = __init__


def bind_server(server: ModuleType) -> None:
    """Called when ``verl.workers.rollout.vllm_rollout.vllm_async_server`` has been imported."""
    cls = server.vLLMHttpServer
    init, run_server, generate = cls.__init__, cls.run_server, cls.generate

    @functools.wraps(init)
    def tapped_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.verl_ext_entropies = bool((self.config.custom or {}).get(source.CUSTOM, False))
        if self.verl_ext_entropies:
            tap.enable()

    @functools.wraps(run_server)
    async def tapped_run_server(self: Any, *args: Any, **kwargs: Any) -> None:
        await run_server(self, *args, **kwargs)
        if self.verl_ext_entropies:
            self.engine.generate = recorded(self.engine.generate)
            await probe(self)

    @functools.wraps(generate)
    async def tapped_generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.verl_ext_entropies:
            return await generate(self, *args, **kwargs)
        latest: list[Any] = []
        token = _latest.set(latest)
        try:
            output = await generate(self, *args, **kwargs)
        finally:
            _latest.reset(token)
        if output.log_probs is not None:
            output.log_probs = joined(output.log_probs, entropies(latest[-1].outputs[0]))
        return output

    cls.__init__, cls.run_server, cls.generate = tapped_init, tapped_run_server, tapped_generate


def recorded(generate: Any) -> Any:
    """The engine's ``generate``, whose outputs are also left for the caller: verl's server keeps the ranks back."""

    @functools.wraps(generate)
    async def recording(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        latest = _latest.get()
        async with contextlib.aclosing(generate(*args, **kwargs)) as outputs:
            async for output in outputs:
                if latest is not None:
                    latest[:] = [output]
                yield output

    return recording


def entropies(completion: Any) -> list[float]:
    """Entropy of each token of a completion, nats."""
    return payload.decode(
        [step[token].rank for token, step in zip(completion.token_ids, completion.logprobs, strict=True)]
    )


async def probe(server: Any) -> None:
    """Generate one token, so that an engine without the tap ends the run here and not after the first rollout.

    Raises:
        UntaggedRankError: the engine's worker does not run the tap.
    """
    if server._disaggregation_role == "null":
        request = {"logprobs": True, "max_tokens": 1, "temperature": 1.0}
        await server.generate([server.model_config.tokenizer.eos_token_id or 0], request, "verl_ext-probe")

"""Responses from a model behind an OpenAI-compatible interface.

Address and key come from environment variables. The key is never written: not to a file, not to a message, not
to the log, even where the server sends it back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verl_ext.evaluation.engine import sample_seed
from verl_ext.evaluation.request import Endpoint
from verl_ext.evaluation.store import Generation, PartWriter, Store

if TYPE_CHECKING:
    from verl_ext.evaluation.benchmark import Problem

_PATIENCE = 20
_SHOWN = 5


class EndpointError(RuntimeError):
    """Responses are missing; those that came are kept."""


def run_endpoint(endpoint: Endpoint, stores: Sequence[Store], part_rows: int, tick: Callable[[], None]) -> None:
    """Ask for what is missing in the folders, a response a request, `endpoint.concurrency` at once.

    A request that fails in a way that may pass (connection, rate limit, server error) is tried again with growing
    pauses, or after the pause that the server asks for. One that fails for good is passed over, up to 20 of them;
    an endpoint that does not know the key or the model is given up at once.

    Raises:
        EndpointError: if responses are still missing (what came is kept: a second start asks for the rest), or the
            package `openai` is not installed.
    """
    failures = asyncio.run(_Asker(endpoint, stores, part_rows, tick).ask())
    if failures:
        shown = failures[:_SHOWN] + ([f"and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else [])
        raise EndpointError(
            "\n  ".join([f"{endpoint.model}: responses are missing; start again to ask for them", *shown])
        )


@dataclass(frozen=True)
class _Source:
    """A benchmark's name and seed, what is asked the same of all its problems, and where responses go."""

    name: str
    seed: int
    settings: dict[str, Any]
    writer: PartWriter


class _Asker:
    """One round over everything that is missing."""

    def __init__(self, endpoint: Endpoint, stores: Sequence[Store], part_rows: int, tick: Callable[[], None]) -> None:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise EndpointError("endpoints need the package openai; install it, or a vLLM, which brings it") from error
        self._endpoint, self._stores, self._rows, self._tick = endpoint, stores, part_rows, tick
        self._key = os.environ[endpoint.api_key_env]
        self._client = openai.AsyncOpenAI(
            base_url=os.environ[endpoint.base_url_env],
            api_key=self._key,
            max_retries=endpoint.retries,
            timeout=endpoint.timeout_s,
        )
        self._hopeless = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        self._failing = openai.OpenAIError
        self._failures: list[str] = []
        self._stop = False

    async def ask(self) -> list[str]:
        """Ask for all; return what went wrong."""
        slots = asyncio.Semaphore(self._endpoint.concurrency)
        with ExitStack() as stack:
            tasks = [
                asyncio.create_task(self._one(source, problem, sample, slots))
                for store in self._stores
                for source in [self._source(store, stack.enter_context(PartWriter(store, self._rows)))]
                for problem, sample in store.pending()
            ]
            try:
                for task in asyncio.as_completed(tasks):
                    await task
                    self._tick()
            finally:
                for one in tasks:
                    one.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._client.close()
        return self._failures

    async def _one(self, source: _Source, problem: Problem, sample: int, slots: asyncio.Semaphore) -> None:
        where = f"{source.name} problem {problem.index} sample {sample}"
        seed = sample_seed(source.seed, source.name, problem.index, sample)
        async with slots:
            if self._stop:
                return
            try:
                messages: Any = list(problem.messages)
                answer = await self._client.chat.completions.create(
                    model=self._endpoint.model, messages=messages, seed=seed, **source.settings
                )
            except self._failing as error:
                self._fail(f"{where}: {type(error).__name__}: {error}", isinstance(error, self._hopeless))
                return
        if answer.choices:
            source.writer.add(_generation(problem, sample, answer))
        else:
            self._fail(f"{where}: the endpoint answered without a choice", hopeless=False)

    def _fail(self, words: str, hopeless: bool) -> None:
        self._failures.append(words.replace(self._key, "***"))
        self._stop = self._stop or hopeless or len(self._failures) >= _PATIENCE

    def _source(self, store: Store, writer: PartWriter) -> _Source:
        decoding = store.decoding()
        settings = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            self._endpoint.limit_name: decoding.max_tokens,
        }
        return _Source(store.name, store.request()["identity"]["seed"], settings, writer)


def _generation(problem: Problem, sample: int, answer: Any) -> Generation:
    (choice,) = answer.choices
    # What the endpoint made of the messages is not known: the messages themselves are kept.
    prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in problem.messages)
    tokens = answer.usage.completion_tokens if answer.usage else None
    return Generation(
        problem.index, sample, prompt, choice.message.content or "", tokens, choice.finish_reason or "unknown"
    )

"""Why a session failed, from the process in which it did to the controller that has to say so.

verl logs the exception in the agent loop's worker and leaves the word `failure` in TransferQueue. Here the exception
goes along as a tag of the prompt, and the replay buffer's look at the prompts reads it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from verl_ext.run.guards.verifier import SessionFailures

# Prefix of the tags; one a session, since a put merges tags of a key.
TAG = "verl_ext_failure_"
LONGEST = 500
_PLACE = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


def bind_agent_loop(agent_loop: ModuleType) -> None:
    """Called when ``verl.experimental.agent_loop.agent_loop`` has been imported."""
    worker = agent_loop.AgentLoopWorker
    run, score = worker._run_agent_loop, worker._compute_score

    @functools.wraps(score)
    async def _compute_score(self: Any, outputs: list[Any], *args: Any, **kwargs: Any) -> None:
        try:
            await score(self, outputs, *args, **kwargs)
        except Exception as error:
            error.verl_ext_stage = "the reward function raised "  # type: ignore[attr-defined]
            raise
        if self.reward_loop_worker_handles is not None and outputs[-1].reward_score is None:
            # verl would leave the field of the rewards out, and fail over its absence after the rollout.
            raise TypeError("the reward function returned None for a score; a number is wanted")

    @functools.wraps(run)
    async def _run_agent_loop(
        self: Any, sampling_params: Any, trajectory: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        try:
            return await run(self, sampling_params, trajectory, *args, **kwargs)
        except Exception as error:
            await _report(error, trajectory, kwargs)
            raise

    worker._run_agent_loop, worker._compute_score = _run_agent_loop, _compute_score


async def _report(error: Exception, trajectory: Mapping[str, Any], prompt: Mapping[str, Any]) -> None:
    if "uid" not in prompt or "session_id" not in prompt:
        return  # not one of the loops that go through TransferQueue
    import transfer_queue as tq

    await tq.async_kv_put(
        key=prompt["uid"],
        partition_id="val" if trajectory["validate"] else "train",
        tag={f"{TAG}{prompt['session_id']}": cause(error)},
    )


def cause(error: BaseException) -> str:
    """One line: what raised what, and where, of an error that may have come through Ray."""
    original = getattr(error, "cause", None) or error
    text = f"{type(original).__name__}: {original}".strip().replace("\n", " ")[:LONGEST]
    places = _PLACE.findall(_traceback(error))
    place = f" ({places[-1][0]}:{places[-1][1]}, in {places[-1][2]})" if places else ""
    return f"{getattr(error, 'verl_ext_stage', '')}{text}{place}"


def _traceback(error: BaseException) -> str:
    import traceback

    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):
        return str(error)  # that of the process in which it was raised; the local one ends at the call
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def watch(buffer: Any, tq: Any, failures: SessionFailures, stop: Callable[[str], Exception]) -> None:
    """Have a replay buffer look at failed groups each time that it reads the state of the prompts.

    A custom sampler that reads it in another way is left alone.

    Args:
        buffer: the trainer's.
        tq: TransferQueue.
        failures: counts groups.
        stop: message -> the error that ends the run.
    """
    if not hasattr(buffer, "_sync_metadata_from_transfer_queue"):
        return
    read = buffer._sync_metadata_from_transfer_queue

    @functools.wraps(read)
    def _sync_metadata_from_transfer_queue(*args: Any, **kwargs: Any) -> Any:
        result = read(*args, **kwargs)
        for partition in {*buffer.partitions, *buffer.failure_keys}:
            message = observe(buffer, tq, failures, partition)
            if message is not None:
                raise stop(message)
        return result

    buffer._sync_metadata_from_transfer_queue = _sync_metadata_from_transfer_queue


def observe(buffer: Any, tq: Any, failures: SessionFailures, partition: str) -> str | None:
    """Look at one partition; the tags are fetched only where something failed."""
    failed = set(buffer.failure_keys[partition])
    came_back = {key.split("_")[0] for key in buffer.partitions[partition]}
    in_flight = len(buffer.pending_keys[partition]) + len(buffer.running_keys[partition])
    tags = ((tq.kv_list(partition) or {}).get(partition) or {}) if failed else {}
    causes = {uid: [str(value) for name, value in tags.get(uid, {}).items() if name.startswith(TAG)] for uid in failed}
    return failures.observe(causes, came_back, in_flight, validation=partition == "val")

"""Loaded by verl in every process of a run (VERL_USE_EXTERNAL_MODULES): the fault that the environment names."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from pathlib import Path

import wrapt

FAULT, MOMENT = os.environ["WATCHDOG_FAULT"], Path(os.environ["WATCHDOG_MOMENT"])


def note() -> None:
    """The moment of the fault, and the process."""
    if not MOMENT.exists():
        MOMENT.write_text(f"{time.time()} {os.getpid()}")


def die() -> None:
    note()
    os.kill(os.getpid(), signal.SIGKILL)


def kill_agent_worker(module) -> None:
    """In an agent loop worker: be killed in the middle of the second step's generation."""
    cls = module.AgentLoopWorker
    original = cls._run_agent_loop

    async def _run_agent_loop(self, sampling_params, trajectory, *args, **kwargs):
        if trajectory["step"] == 2:
            threading.Timer(1.0, die).start()
            await asyncio.sleep(600)
        return await original(self, sampling_params, trajectory, *args, **kwargs)

    cls._run_agent_loop = _run_agent_loop


def kill_in_sync(module) -> None:
    """In vLLM's worker: be killed in the middle of the second weight sync."""
    cls = module.vLLMColocateWorkerExtension
    original, count = cls.update_weights_from_ipc, itertools.count(1)

    def update_weights_from_ipc(self, *args, **kwargs):
        if next(count) == 2:
            from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer

            def receive(receiver, on_bucket_received):
                receiver._init_socket()
                receiver._init_buffer()
                die()

            bucketed_weight_transfer.BucketedWeightReceiver.receive_weights = receive
        return original(self, *args, **kwargs)

    cls.update_weights_from_ipc = update_weights_from_ipc


def as_on_a_gpu() -> None:
    """Without the guard of the weight sync, which the CPU platform alone has."""
    from verl_ext.platform import weight_sync

    weight_sync.guard_sender = weight_sync.check_every_sync = lambda cls: None


if FAULT == "agent":
    wrapt.register_post_import_hook(kill_agent_worker, "verl.experimental.agent_loop.agent_loop")
if FAULT == "sync":
    as_on_a_gpu()
    wrapt.register_post_import_hook(kill_in_sync, "verl.workers.rollout.vllm_rollout.utils")

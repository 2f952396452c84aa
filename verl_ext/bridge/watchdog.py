"""On verl's trainer: tells the watchdog what the run is doing, and turns its interruption into an error.

The watchdog lives in the process that starts TransferQueue with a trainer's configuration (verl's TaskRunner), from
`transfer_queue.init` to `transfer_queue.close`: the first and the last thing that process does, also when it fails.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.run import settings as run_settings
from verl_ext.run.watchdog import stacks

STEPS_OF_TRAINER = {
    "_load_checkpoint": "load_checkpoint",
    "_validate": "testing",
    # Not what it calls: groups that failed are replaced through that, for ever if need be, and it is no progress.
    "_add_batch_to_generate": "data",
}
ENGINES = ("FSDPEngineWithLMHead", "MegatronEngineWithLMHead", "MegatronEngineWithValueHead")
STEPS_OF_CHECKPOINTS = {"update_weights": "update_weights", "sleep_replicas": "sleep_replicas"}


def bind_process(protocol: ModuleType) -> None:
    """Called when ``verl.protocol`` has been imported, as it is in every process: its stacks can be asked for."""
    stacks.register()


def bind_queue(transfer_queue: ModuleType) -> None:
    """Called when ``transfer_queue`` has been imported."""
    init, close = transfer_queue.init, transfer_queue.close

    @functools.wraps(init)
    def watched_init(conf: Any = None, *args: Any, **kwargs: Any) -> Any:
        start(conf)
        try:
            return init(conf, *args, **kwargs)
        except KeyboardInterrupt:
            # verl closes what it has open from here on only.
            end(lambda: None)
            raise

    @functools.wraps(close)
    def watched_close() -> None:
        end(close)

    transfer_queue.init, transfer_queue.close = watched_init, watched_close  # type: ignore[attr-defined]


def start(conf: Any) -> None:
    """Watch this process if `conf` is part of a trainer's configuration: an agent loop worker gives none."""
    from verl_ext.run.watchdog import watchdog
    from verl_ext.run.watchdog.ledger import Ledger

    config = getattr(conf, "_get_root", lambda: None)()
    if config is None or "trainer" not in config or watchdog.current() is not None:
        return
    settings = run_settings.section(config, "watchdog")
    if not settings.enabled:
        return
    ledger = Ledger(settings, batch=config.data.train_batch_size)
    dog = watchdog.Watchdog(ledger, settings, watchdog.on_ray(settings), folders(config, settings))
    watchdog.set_current(dog)
    dog.start()


def folders(config: Any, settings: Any) -> list[Path]:
    """Where stacks may be written, the best first."""
    wanted = settings.dump_dir or Path(config.trainer.default_local_dir) / "watchdog"
    return [Path(wanted).absolute(), Path(tempfile.gettempdir()) / "verl_ext-watchdog"]


def end(close: Any) -> None:
    """Close TransferQueue under watch.

    Raises:
        WatchdogError: the run was ended by the watchdog; it replaces the interruption on its way to the driver.
    """
    from verl_ext.run.watchdog import watchdog

    dog = watchdog.current()
    try:
        # A queue whose processes may be the dead ones is left to Ray, which ends them with the job.
        if dog is None or dog.verdict is None:
            if dog is not None:
                dog.wind_up()
            close()
    finally:
        if dog is not None:
            dog.stop()
            watchdog.set_current(None)
    error = dog.error() if dog is not None else None
    if error is not None:
        raise error from None


def bind_trainer(trainer_base: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.v1.trainer_base`` has been imported."""
    from verl_ext.run.watchdog import watchdog

    bind_timer(trainer_base)
    cls = trainer_base.PPOTrainer
    _name_phases(cls, STEPS_OF_TRAINER)
    _name_phases(trainer_base.CheckpointEngineManager, STEPS_OF_CHECKPOINTS)
    fit, step, build = cls.fit, cls.step, cls._build_replay_buffer

    @functools.wraps(fit)
    def watched_fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        dog = watchdog.current()
        if dog is None:
            return fit(self, *args, **kwargs)
        dog.train()
        try:
            return fit(self, *args, **kwargs)
        finally:
            dog.wind_up()

    @functools.wraps(step)
    def watched_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        dog = watchdog.current()
        if dog is not None:
            dog.ledger.step = self.global_steps
        return step(self, *args, **kwargs)

    @functools.wraps(build)
    def _build_replay_buffer(self: Any) -> Any:
        buffer = build(self)
        sample = buffer.sample

        @functools.wraps(sample)
        def watched_sample(*args: Any, **kwargs: Any) -> Any:
            # A phase of its own for every batch, since validation takes several.
            dog = watchdog.current()
            with watchdog.phase(dog.ledger.where if dog is not None else ""):
                return sample(*args, **kwargs)

        buffer.sample = watched_sample
        return buffer

    cls.fit, cls.step, cls._build_replay_buffer = watched_fit, watched_step, _build_replay_buffer


def bind_timer(trainer: ModuleType) -> None:
    """Called when a module of ``verl.trainer.ppo.v1`` has been imported: its timers name the phases."""
    from verl_ext.run.watchdog import watchdog

    original = trainer.marked_timer

    @functools.wraps(original)
    @contextlib.contextmanager
    def marked_timer(name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        with watchdog.phase(name), original(name, *args, **kwargs):
            yield

    trainer.marked_timer = marked_timer  # type: ignore[attr-defined]


def _name_phases(cls: type, names: dict[str, str]) -> None:
    for method, name in names.items():
        setattr(cls, method, _named(getattr(cls, method), name))


def _named(original: Any, name: str) -> Any:
    """The method as a phase; one of verl's that can be called with and without `await` stays so."""
    from verl.utils.ray_utils import auto_await

    from verl_ext.run.watchdog import watchdog

    # One level only: a wrapper of somebody else must not be lost.
    inner = getattr(original, "__wrapped__", None)
    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with watchdog.phase(name):
                return await inner(*args, **kwargs)

        return auto_await(awaited)

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        with watchdog.phase(name):
            return original(*args, **kwargs)

    return called


def bind_buffer(replay_buffer: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.v1.replay_buffer`` has been imported: what a look at the rollouts found."""
    from verl_ext.run.watchdog import watchdog

    cls = replay_buffer.ReplayBuffer
    sampleable, evict = cls._sampleable_terminal_keys, cls._evict_terminal_groups

    @functools.wraps(sampleable)
    def _sampleable_terminal_keys(self: Any, partition_id: str, eviction_reasons: Any) -> Any:
        # Looked at after what is to be thrown away has been.
        found = sampleable(self, partition_id, eviction_reasons)
        dog = watchdog.current()
        if dog is not None:
            dog.ledger.groups(
                kept=len(found),
                rows=len(self.partitions[partition_id]),
                in_flight=len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id]),
            )
        return found

    @functools.wraps(evict)
    def _evict_terminal_groups(self: Any, global_steps: int, partition_id: str, eviction_reasons: Any) -> Any:
        # Apart from the look: verl's asynchronous buffer does not come to it while there is something to evict.
        _stale, _filtered, failed, _counts = eviction_reasons
        dog = watchdog.current()
        if dog is not None:
            dog.ledger.failed(len(failed))
        return evict(self, global_steps, partition_id, eviction_reasons)

    cls._sampleable_terminal_keys, cls._evict_terminal_groups = _sampleable_terminal_keys, _evict_terminal_groups


def bind_engine(engine: ModuleType) -> None:
    """Called when a ``transformer_impl`` of ``verl.workers.engine`` has been imported: count micro-batches."""
    from verl_ext.run.watchdog.beats import BEAT

    for name in ENGINES:
        cls = getattr(engine, name, None)
        if cls is not None:
            cls.forward_step = _counted(cls.forward_step, BEAT)


def _counted(original: Any, beat: Any) -> Any:
    @functools.wraps(original)
    def forward_step(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        beat.tick()
        return result

    return forward_step


def bind_server(server: ModuleType) -> None:
    """Called when ``verl.workers.rollout.vllm_rollout.vllm_async_server`` has been imported."""
    from verl_ext.run.watchdog import children

    cls = server.vLLMHttpServer
    original = cls.launch_server

    @functools.wraps(original)
    async def launch_server(self: Any, *args: Any, **kwargs: Any) -> Any:
        from vllm import envs

        children.watch(f"{self.replica_rank}-{self.node_rank}", f"{envs.VLLM_PROCESS_NAME_PREFIX}::")
        return await original(self, *args, **kwargs)

    cls.launch_server = launch_server

"""What of verl, TransferQueue and Ray the watchdog is bound to; a test that fails here names what upstream changed."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from verl_ext.bridge import watchdog as bridge
from verl_ext.run.watchdog import actors, causes, watchdog
from verl_ext.run.watchdog.ledger import TRAINING, Ledger
from verl_ext.run.watchdog.report import WatchdogError
from verl_ext.run.watchdog.settings import WatchdogSettings


@pytest.fixture
def dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A watchdog of this process, whose threads have not been started."""
    settings = WatchdogSettings()
    nothing = watchdog.Actions(
        dead=lambda vital: [],
        living=set,
        started=int,
        beats=lambda: 0,
        stacks=lambda: ({}, []),
        interrupt=lambda: None,
        leave=lambda: None,
        say=lambda text: None,
    )
    made = watchdog.Watchdog(Ledger(settings, batch=8), settings, nothing, [tmp_path])
    watchdog.set_current(made)
    yield made
    watchdog.set_current(None)


def test_the_task_runner_opens_the_queue_first_and_closes_it_last() -> None:
    """The queue gets a part of the trainer's own configuration, and is closed even after an error."""
    from verl.trainer import main_ppo

    source = inspect.getsource(main_ppo)
    run = source[source.index("class TaskRunnerV1") :]
    order = ["import transfer_queue as tq", "tq.init(config.transfer_queue)", "try:", "trainer_cls(config=config)"]
    order += ["self.trainer.init()", "self.trainer.fit(", "finally:", "tracking.finish(", "finally:", "tq.close()"]
    place = 0
    for words in order:
        place = run.index(words, place) + 1


def test_queue_and_configuration_have_what_is_used() -> None:
    import transfer_queue

    assert list(inspect.signature(transfer_queue.init).parameters) == ["conf"]
    assert list(inspect.signature(transfer_queue.close).parameters) == []
    assert OmegaConf.create({"trainer": {}, "transfer_queue": {}}).transfer_queue._get_root().trainer == {}


def test_an_agent_loop_worker_that_joins_the_queue_is_not_watched() -> None:
    bridge.start(None)
    bridge.start(OmegaConf.create({"controller": {}}))
    assert watchdog.current() is None


def fails(error: type[BaseException], closed: list) -> None:
    """As the end of verl's TaskRunner."""
    try:
        raise error
    finally:
        bridge.end(lambda: closed.append(True))


def test_a_run_that_was_ended_leaves_with_our_error_instead_of_the_interruption(dog: Any) -> None:
    closed = []
    dog.verdict = SimpleNamespace(
        kind="stalled", phase="gen", step=2, idle_s=31.0, limit_s=30.0, deaths=(), outer=(), failed=0
    )
    with pytest.raises(WatchdogError, match="phase 'gen' of step 2 has made no progress for 31 s"):
        fails(KeyboardInterrupt, closed)
    assert (closed, watchdog.current()) == ([], None)


def test_a_start_up_that_failed_is_over_before_the_queue_is_closed(dog: Any) -> None:
    seen = []
    bridge.end(lambda: seen.append(dog.ledger.outermost))
    assert seen == ["shut-down"]


def test_a_run_that_ends_by_itself_closes_the_queue_and_keeps_its_own_error(dog: Any) -> None:
    closed = []
    with pytest.raises(KeyError):
        fails(KeyError, closed)
    assert (closed, watchdog.current()) == ([True], None)
    assert dog._stop.is_set()


def test_the_timers_of_every_trainer_name_phases_that_we_know() -> None:
    """A new name works, but the report has nothing to say about it."""
    from verl.trainer.ppo import v1
    from verl.trainer.ppo.v1 import trainer_base

    folder = Path(v1.__file__).parent
    text = "".join(file.read_text() for file in sorted(folder.glob("trainer_*.py")))
    names = set(re.findall(r'marked_timer\(\s*"(\w+)"', text))
    assert {"gen", "update_actor", "update_weights", "save_checkpoint", "testing", "step"} <= names
    assert names <= set(causes.CAUSES)
    importing = {file.stem for file in folder.glob("*.py") if "import marked_timer" in file.read_text()}
    assert importing == {"trainer_base", "trainer_sync", "trainer_colocate_async", "trainer_separate_async"}
    for name in [*bridge.STEPS_OF_TRAINER, "fit", "step", "_build_replay_buffer"]:
        assert inspect.isfunction(getattr(trainer_base.PPOTrainer, name)), name
    for name in bridge.STEPS_OF_CHECKPOINTS:
        assert callable(getattr(trainer_base.CheckpointEngineManager, name)), name
    assert set(bridge.STEPS_OF_TRAINER.values()) | set(bridge.STEPS_OF_CHECKPOINTS.values()) <= set(causes.CAUSES)


def test_the_timers_are_bound(dog: Any) -> None:
    from verl.trainer.ppo.v1 import trainer_base, trainer_colocate_async, trainer_separate_async, trainer_sync

    for module in (trainer_base, trainer_sync, trainer_colocate_async, trainer_separate_async):
        timing: dict[str, float] = {}
        with module.marked_timer("ref", timing, color="red"):
            assert dog.ledger.where == "ref", module.__name__
        assert timing["ref"] >= 0


def test_fit_is_training_and_its_end_is_the_shut_down(dog: Any) -> None:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    class Fails:
        @property
        def config(self) -> Any:
            assert dog.ledger.outermost == TRAINING
            raise KeyError

    with pytest.raises(KeyError):
        PPOTrainer.fit(Fails(), None)
    assert dog.ledger.outermost == "shut-down"


def test_a_weight_sync_is_a_phase_whether_it_is_awaited_or_not(dog: Any) -> None:
    """verl's synchronous trainers call it, and its fully asynchronous one awaits it."""
    from verl.trainer.ppo.v1.trainer_base import CheckpointEngineManager

    seen = []

    class Replica:
        async def sleep(self) -> None:
            seen.append(dog.ledger.where)

    manager = SimpleNamespace(replicas=[Replica()], config=None, backend="naive")

    async def awaits() -> None:
        await CheckpointEngineManager.sleep_replicas(manager)

    CheckpointEngineManager.sleep_replicas(manager)
    asyncio.run(awaits())
    assert seen == ["sleep_replicas"] * 2
    assert dog.ledger.where == "start-up"


def test_a_refill_is_no_phase_and_the_batch_of_a_step_is() -> None:
    """verl replaces failed groups through _add_prompts_to_generate: were it a phase, endless refill were progress."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    assert "refill_fn=self._add_prompts_to_generate" in inspect.getsource(
        inspect.unwrap(PPOTrainer._build_replay_buffer)
    )
    for name in ("_add_prompts_to_generate", "_next_train_batch", "_submit_batch_to_rollout"):
        assert name not in bridge.STEPS_OF_TRAINER
    assert "self._add_batch_to_generate()" in inspect.getsource(PPOTrainer.prepare_step)


def buffer(monkeypatch: pytest.MonkeyPatch, tags: dict[str, dict], sync: bool, **given: Any) -> Any:
    from verl.trainer.ppo.v1 import replay_buffer

    store = {"train": tags}
    monkeypatch.setattr(replay_buffer.tq, "kv_list", lambda *a, **k: store)

    def clear(partition_id: str, keys: Any) -> None:
        for key in keys:
            store[partition_id].pop(key, None)

    monkeypatch.setattr(replay_buffer.tq, "kv_clear", clear)
    cls = replay_buffer.ReplayBuffer if sync else replay_buffer.ReplayBufferAsync
    return cls(
        trainer_mode="sync" if sync else "colocate_async",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create({}),
        poll_interval=0.0,
        gen_batch_size=1,
        **given,
    )


def prompt(status: str) -> dict[str, Any]:
    return {"is_prompt": True, "status": status, "global_steps": 1}


@pytest.mark.parametrize("sync", [True, False])
def test_a_look_of_the_real_replay_buffer_reaches_the_ledger(dog: Any, monkeypatch: Any, sync: bool) -> None:
    """Two groups kept, one running with a response already there, and one more that fails until it is replaced."""
    tags = {"a": prompt("finished"), "b": prompt("finished"), "c": prompt("running"), "d": prompt("failure")}
    tags |= {f"{group}_0_0": {"status": "success"} for group in "abc"}
    refilled = []

    def refill(count: int) -> None:
        refilled.append(count)
        tags["e"] = prompt("finished")
        tags["e_0_0"] = {"status": "success"}

    made = buffer(monkeypatch, tags, sync, refill_fn=refill, **({"sync_refill_failed_groups": True} if sync else {}))
    dog.ledger.become(TRAINING)
    seen, failed = [], []
    monkeypatch.setattr(dog.ledger, "groups", lambda **found: seen.append(found))
    monkeypatch.setattr(dog.ledger, "failed", failed.append)
    batch, _ = made.sample(1, "train", 3)
    assert refilled == [1]
    assert sorted(batch.keys) == ["a_0_0", "b_0_0", "e_0_0"]
    assert sum(failed) == 1
    # verl's synchronous buffer looks before it replaces as well.
    assert seen[:-1] == ([{"kept": 2, "rows": 3, "in_flight": 1}] if sync else [])
    assert seen[-1] == {"kept": 3, "rows": 4, "in_flight": 1}


def test_endless_failure_in_the_real_asynchronous_buffer_is_counted(dog: Any, monkeypatch: Any) -> None:
    """verl throws failed groups away before it looks for kept ones and begins anew, without ever coming to wait."""
    tags = {f"g{i}": prompt("failure") for i in range(8)}
    turns = []

    def refill(count: int) -> None:
        turns.append(count)
        if len(turns) == 4:
            raise InterruptedError
        tags.update({f"t{len(turns)}g{i}": prompt("failure") for i in range(8)})

    made = buffer(monkeypatch, tags, False, refill_fn=refill)
    dog.ledger.become(TRAINING)
    with dog.ledger.phase("gen"):
        with pytest.raises(InterruptedError):
            made.sample(1, "train", 8)
        verdict = dog.ledger.verdict()
    assert (verdict.kind, verdict.failed) == ("failing", 32)


def test_micro_batches_are_counted_where_the_engines_do_them() -> None:
    pytest.importorskip("verl.workers.engine.fsdp.transformer_impl")
    from verl.single_controller.ray import base
    from verl.workers.engine.fsdp import transformer_impl

    from verl_ext.run.watchdog.beats import Beat

    assert '"RANK": str(rank)' in inspect.getsource(base), "which worker counts"
    for name in ("FSDPEngineWithLMHead",):
        assert hasattr(getattr(transformer_impl, name).forward_step, "__wrapped__")
    assert "self.forward_step(" in inspect.getsource(transformer_impl.FSDPEngine.forward_backward_batch)
    beat, calls = Beat(), []
    beat._started = True
    counted = bridge._counted(lambda *args: calls.append(args) or "result", beat)
    assert (counted(1, 2), beat.count, calls) == ("result", 1, [(1, 2)])


def test_megatron_has_the_same_place() -> None:
    import verl

    text = (Path(verl.__file__).parent / "workers/engine/megatron/transformer_impl.py").read_text()
    for name in bridge.ENGINES[1:]:
        body = text[text.index(f"class {name}(") :]
        assert "def forward_step(" in body
    assert "forward_step_func=self.forward_step" in text or "self.forward_step" in text


def test_vllm_titles_its_processes_and_the_server_launches_them() -> None:
    import verl
    import vllm

    server = (Path(verl.__file__).parent / "workers/rollout/vllm_rollout/vllm_async_server.py").read_text()
    assert "async def launch_server(" in server
    for word in ("self.node_rank = node_rank", "self.replica_rank = replica_rank"):
        assert word in server
    titles = (Path(vllm.__file__).parent / "utils/system_utils.py").read_text()
    assert 'setproctitle.setproctitle(f"{prefix}::{name}")' in titles
    assert "VLLM_PROCESS_NAME_PREFIX" in titles


def test_ray_has_the_store_of_actors_and_of_keys() -> None:
    from ray._private import state
    from ray.core.generated import gcs_pb2
    from ray.experimental import internal_kv

    assert {"job_id", "actor_state_name"} <= set(inspect.signature(state.actors).parameters)
    for name in ("ActorID", "Name", "ActorClassName", "Pid", "Address", "DeathCause", "NodeID", "IPAddress"):
        assert f'"{name}"' in inspect.getsource(state.GlobalState._gen_actor_info), name
    assert {"overwrite", "namespace"} <= set(inspect.signature(internal_kv._internal_kv_put).parameters)
    assert "namespace" in inspect.signature(internal_kv._internal_kv_list).parameters
    context = gcs_pb2.ActorTableData.DESCRIPTOR.fields_by_name["death_cause"].message_type.fields_by_name
    reasons = context["actor_died_error_context"].message_type.fields_by_name["reason"].enum_type.values_by_name
    assert set(actors.WANTED) <= set(reasons)


def death(**context: Any) -> Any:
    from ray.core.generated import gcs_pb2

    table = gcs_pb2.ActorTableData()
    for name, value in context.items():
        getattr(table.death_cause.actor_died_error_context, name)
        setattr(table.death_cause.actor_died_error_context, name, value)
    return table.death_cause


@pytest.mark.parametrize(
    ("reason", "text", "counts"),
    [
        ("WORKER_DIED", "The actor is dead because its worker process has died.  Signal 9", True),
        ("NODE_DIED", "The actor died because its node has died.", True),
        ("RAY_KILL", "killed by ray.kill", False),
        ("OUT_OF_SCOPE", "all references are gone", False),
        ("REF_DELETED", "all references are gone", False),
        ("OWNER_DIED", "its owner has died", False),
        ("WORKER_DIED", "exit_actor was called", False),
        ("WORKER_DIED", "Worker exit type: INTENDED_USER_EXIT", False),
    ],
)
def test_which_reasons_of_ray_count(reason: str, text: str, counts: bool) -> None:
    from ray.core.generated import gcs_pb2

    context = gcs_pb2.ActorTableData().death_cause.actor_died_error_context
    found = actors.cause(death(error_message=text, reason=type(context).Reason.Value(reason)))
    assert found == (" ".join(text.split()) if counts else None)


def test_a_beat_starts_no_ray() -> None:
    """A process that trains without Ray, as a script around verl's engine does."""
    code = (
        "import ray\n"
        "from verl_ext.run.watchdog import actors\n"
        "actors.put_beat(1, 1)\n"
        "actors.report('key', 'who', 'why')\n"
        "assert not ray.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

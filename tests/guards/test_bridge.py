"""The guards on verl's trainer class, around stand-ins for the parts that need workers."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import RayTaskError
from tensordict import NonTensorStack, TensorDict
from verl.experimental.agent_loop import agent_loop
from verl.trainer.ppo.v1 import PPOTrainer, replay_buffer, trainer_base, trainer_sync
from verl.trainer.ppo.v1 import agent_loop_tq as verl_agent_loop_tq
from verl.workers.engine.fsdp import transformer_impl

from tests.bridge.configurations import compose
from tests.bridge.micro_batches import jagged
from tests.bridge.test_controller import Queue, meta, verdict
from verl_ext import batch_file
from verl_ext.bridge import guards, guards_batch, guards_sessions
from verl_ext.rollout.mismatch import MismatchError
from verl_ext.run import state as run_state
from verl_ext.run.guards import GuardError
from verl_ext.run.guards.verifier import SessionFailures

NAN = float("nan")
LENGTHS = (2, 3, 1, 2)


class Workers:
    """What a rollback uses of the worker group."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, bool]] = []

    def load_checkpoint(self, local_path: str, del_local_after_load: bool) -> None:
        self.loaded.append((local_path, del_local_after_load))


def pick(column: Any, rows: list[int]) -> Any:
    """Some rows of a column."""
    if isinstance(column, torch.Tensor):
        return jagged([column[row] for row in rows])
    return NonTensorStack(*[column.tolist()[row] for row in rows])


class LiveQueue(Queue):
    """What is put can be fetched, and of some rows alone."""

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> Any:
        if len(keys) == len(LENGTHS):
            return super().kv_batch_get(keys, partition_id, select_fields)
        rows = [int(key.split("_")[1]) for key in keys]
        wanted = {name: pick(column, rows) for name, column in self.columns.items() if name in select_fields}
        return TensorDict(wanted, batch_size=len(keys))

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: Any) -> Any:
        self.columns.update(fields.items())
        return super().kv_batch_put(keys, partition_id, fields)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A trainer of verl's class with its guards, made without workers, and the queue that it reads: 4 sessions."""
    monkeypatch.setattr(run_state, "_registered", {})
    queue = LiveQueue(
        uid=NonTensorStack(*"uuuu"),
        prompts=jagged([torch.arange(2) for _ in LENGTHS]),
        responses=jagged([torch.arange(n) for n in LENGTHS]),
        response_mask=jagged([torch.ones(n, dtype=torch.long) for n in LENGTHS]),
        rm_scores=jagged([torch.full((n,), float(n == 3)) for n in LENGTHS]),
        old_log_probs=jagged([-torch.ones(n) for n in LENGTHS]),
        rollout_log_probs=jagged([-torch.ones(n) for n in LENGTHS]),
        entropy=jagged([torch.full((n,), 2.0) for n in LENGTHS]),
        extra_fields=NonTensorStack(*[verdict(True, "correct")] * 3, verdict(False, "timeout")),
        reward_model=NonTensorStack(*[{"ground_truth": str(row)} for row in range(4)]),
    )
    monkeypatch.setattr(trainer_base, "tq", queue)

    def build(*overrides: str) -> Any:
        config = compose(
            "+backend=cpu",
            "+algo=espo",
            "data.train_batch_size=1",
            *overrides,
        )
        config.trainer.default_local_dir = str(tmp_path)
        trainer = object.__new__(trainer_sync.PPOTrainerSync)
        trainer.config, trainer.tokenizer, trainer.global_steps = config, None, 5
        trainer.local_trigger_step, trainer.use_critic = 0, False
        trainer.actor_rollout_wg = Workers()
        trainer.verl_ext_guards = guards.Guards(trainer, queue)
        trainer.queue = queue
        return trainer

    return build


def kept(folder: Path) -> tuple[dict, batch_file.BatchFile]:
    (found,) = (folder / "guards").iterdir()
    return json.loads((found / "reason.json").read_text()), batch_file.read(found)


def compute(trainer: Any) -> dict[str, Any]:
    """verl's own advantage step, with everything of ours around it."""
    metrics: dict[str, Any] = {}
    PPOTrainer._compute_advantage(trainer, meta(4), metrics)
    return metrics


def test_a_sound_batch_passes_with_its_figures(make, tmp_path: Path) -> None:
    """The entropy of every token is 2; one session of four timed out."""
    metrics = compute(make())
    assert metrics["guards/entropy/mean"] == 2
    assert metrics["guards/verifier/unjudged_share"] == 0.25
    assert metrics["guards/nonfinite/values"] == 0
    assert not (tmp_path / "guards").exists()


def test_a_nan_ends_the_run_and_the_batch_is_kept_with_the_group_first(make, tmp_path: Path) -> None:
    trainer = make()
    trainer.queue.columns["old_log_probs"] = jagged([torch.tensor(r) for r in ([0.0, 0], [0, NAN, 0], [0.0], [0.0, 0])])
    with pytest.raises(GuardError, match=r"old_log_probs: 1 value in 1 row \(u_1_0\)") as caught:
        compute(trainer)
    reason, batch = kept(tmp_path)
    assert str(tmp_path / "guards" / "step-00005-nonfinite") in str(caught.value)
    assert (reason["guard"], reason["step"], reason["rows"]) == ("nonfinite", 5, ["u_1_0"])
    assert reason["figures"]["findings"][0]["value"] == "nan"  # JSON has no NaN
    assert reason["loss"]["policy_loss"]["loss_mode"] == "espo"
    assert batch.columns["key"] == ["u_0_0", "u_1_0", "u_2_0", "u_3_0"]
    assert np.isnan(batch.columns["old_log_probs"][1][1])
    assert batch.columns["ground_truth"] == ["0", "1", "2", "3"]
    assert json.loads(batch.columns["reward_extra_info"][3]) == {"verified": False, "outcome": "timeout"}
    assert [len(row) for row in batch.columns["responses"]] == list(LENGTHS)


def test_skip_leaves_both_updates_out_and_counts(make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make("+verl_ext.guards.nonfinite_action=skip", "+verl_ext.guards.nonfinite_max_skipped=1")
    sound = trainer.queue.columns["rm_scores"]
    trainer.queue.columns["rm_scores"] = jagged([torch.full((n,), NAN) for n in LENGTHS])
    assert compute(trainer)["guards/nonfinite/skipped"] == 1
    batch = meta(4)
    assert PPOTrainer._update_actor(trainer, batch, {}) is batch  # verl's own would ask the workers
    assert PPOTrainer._update_critic(trainer, batch, {}) is batch
    trainer.queue.columns["rm_scores"] = sound
    compute(trainer)
    assert not trainer.verl_ext_guards.leave_out
    trainer.queue.columns["rm_scores"] = jagged([torch.full((n,), NAN) for n in LENGTHS])
    with pytest.raises(GuardError, match="1 updates have been skipped already"):
        compute(trainer)


def test_nan_that_an_update_reports_ends_the_run(make) -> None:
    trainer = make()
    compute(trainer)

    def verls_update(self: Any, batch: Any, metrics: dict) -> Any:
        metrics["actor/grad_norm"] = NAN
        return batch

    update = guards._guarded(verls_update, "actor")
    with pytest.raises(GuardError, match="the update reported actor/grad_norm=nan"):
        update(trainer, meta(4), {})
    off = make("+verl_ext.guards.nonfinite_action=off")
    update(off, meta(4), {})


def test_a_mismatch_over_its_limit_keeps_the_batch(make, tmp_path: Path) -> None:
    trainer = make("+algorithm.verl_ext.max_log_prob_difference=0.5")
    trainer.queue.columns["rollout_log_probs"] = jagged([torch.full((n,), -3.0) for n in LENGTHS])
    with pytest.raises(MismatchError, match=r"max_log_prob_difference=0\.5 is exceeded") as caught:
        compute(trainer)
    reason, batch = kept(tmp_path)
    assert "step-00005-mismatch" in str(caught.value)
    assert reason["limits"] == {"max_log_prob_difference": 0.5}
    assert (batch.columns["rollout_log_probs"][0] == -3).all()
    assert "advantages" not in batch.columns  # it stops before they exist


def test_in_bypass_mode_the_entropies_are_those_of_the_rollout(make) -> None:
    trainer = make("algorithm.rollout_correction.bypass_mode=true")
    del trainer.queue.columns["entropy"]
    trainer.queue.columns["rollout_entropies"] = jagged([torch.full((n,), 1.5) for n in LENGTHS])
    assert compute(trainer)["guards/entropy/mean"] == 1.5


ROLLBACK = (
    "+verl_ext.guards.entropy_floor=1",
    "+verl_ext.guards.entropy_steps=2",
    "+verl_ext.guards.entropy_action=rollback",
)


def test_a_rollback_loads_the_last_good_checkpoint_and_leaves_the_update_out(make, tmp_path: Path) -> None:
    """Sound at 5, low at 6 and 7: 4 is the last good one. 3 is older, 6 is unfinished and 5 is the collapsed policy."""
    trainer = make(*ROLLBACK)
    for step in (3, 4, 5, 6):
        (tmp_path / f"global_step_{step}" / "actor").mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("6")
    streaks = []
    for step, entropy in ((5, 2.0), (6, 0.5), (7, 0.25)):
        trainer.global_steps = step
        trainer.queue.columns["entropy"] = jagged([torch.full((n,), entropy) for n in LENGTHS])
        metrics = compute(trainer)
        streaks.append((metrics["guards/entropy/streak"], metrics["guards/entropy/rollbacks"]))
    assert streaks == [(0, 0), (1, 0), (0, 1)]
    assert trainer.actor_rollout_wg.loaded == [(str(tmp_path / "global_step_4" / "actor"), False)]
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "4"
    batch = meta(4)
    assert PPOTrainer._update_actor(trainer, batch, {}) is batch
    reason, _ = kept(tmp_path)
    assert reason["figures"]["checkpoint"] == 4


def test_the_streak_of_low_entropies_counts_steps_and_not_their_parts(make) -> None:
    """verl looks at a batch once for each mini-step; a step is low once."""
    trainer = make(*ROLLBACK)
    trainer.queue.columns["entropy"] = jagged([torch.full((n,), 0.5) for n in LENGTHS])
    assert compute(trainer)["guards/entropy/streak"] == 1
    trainer.local_trigger_step = 1
    assert compute(trainer)["guards/entropy/streak"] == 1


def test_entropies_of_tokens_that_do_not_count_are_left_out_of_the_mean(make) -> None:
    trainer = make()
    trainer.queue.columns["response_mask"] = jagged([torch.tensor([1] + [0] * (n - 1)) for n in LENGTHS])
    trainer.queue.columns["entropy"] = jagged([torch.tensor([2.0] + [9.0] * (n - 1)) for n in LENGTHS])
    assert compute(trainer)["guards/entropy/mean"] == 2.0


def test_an_unfinished_checkpoint_is_none(make, tmp_path: Path) -> None:
    trainer = make()
    assert not trainer.verl_ext_guards.saved(3)
    (tmp_path / "global_step_3" / "actor").mkdir(parents=True)
    assert trainer.verl_ext_guards.saved(3)
    (tmp_path / "global_step_3" / "verl_ext.unfinished").touch()
    assert not trainer.verl_ext_guards.saved(3)


def test_counters_survive_a_resume(make) -> None:
    trainer = make(*ROLLBACK)
    trainer.queue.columns["entropy"] = jagged([torch.full((n,), 0.5) for n in LENGTHS])
    compute(trainer)
    saved = json.loads(json.dumps(run_state.state()))  # as a checkpoint holds it
    again = make(*ROLLBACK)
    run_state.restore(saved)
    assert again.verl_ext_guards.keeper.entropy.streak == 1
    again.global_steps = 6
    with pytest.raises(GuardError, match="no checkpoint to go back to"):
        compute(again)


def test_sessions_that_all_fail_leave_a_reason_without_a_batch(make, tmp_path: Path) -> None:
    error = make().verl_ext_guards.no_responses("8 groups in a row failed")
    folder = tmp_path / "guards" / "step-00005-verifier"
    assert f"8 groups in a row failed\nThe reason is kept in {folder}" in str(error)
    reason = json.loads((folder / "reason.json").read_text())
    assert (reason["batch"], reason["limits"]) == (None, {"failed_groups": 1})
    assert [path.name for path in folder.iterdir()] == ["reason.json"]


def test_a_step_that_nobody_judged_ends_the_run(make) -> None:
    trainer = make()
    trainer.queue.columns["extra_fields"] = NonTensorStack(*[verdict(False, "error")] * 4)
    with pytest.raises(GuardError, match="4 of 4 sessions have no judgement"):
        compute(trainer)


def test_a_full_disk_does_not_hide_the_reason(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    trainer.queue.columns["rm_scores"] = jagged([torch.full((n,), NAN) for n in LENGTHS])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch_file, "write", full)
    with pytest.raises(GuardError, match=r"rm_scores(.|\n)*could not be kept: .*No space left on device"):
        compute(trainer)


def test_a_run_writes_a_limited_number_of_folders(make, tmp_path: Path) -> None:
    trainer = make(
        "+verl_ext.guards.nonfinite_action=skip",
        "+verl_ext.guards.nonfinite_max_skipped=9",
        "+verl_ext.guards.max_written=2",
    )
    trainer.queue.columns["rm_scores"] = jagged([torch.full((n,), NAN) for n in LENGTHS])
    for _ in range(3):
        compute(trainer)
    names = sorted(path.name for path in (tmp_path / "guards").iterdir())
    assert names == ["step-00005-nonfinite", "step-00005-nonfinite-2"]


def test_a_large_batch_is_read_in_parts_and_cut_with_the_offending_group_first(make, monkeypatch) -> None:
    trainer = make()
    trainer.queue.columns["advantages"] = jagged([torch.zeros(n) for n in LENGTHS])
    batch = meta(4)
    batch.keys = ["a_0_0", "b_0_0", "a_1_0", "b_1_0"]
    asked: list[list[str]] = []

    def kv_batch_get(keys: list[str], **_: Any) -> Any:
        asked.append(keys)
        rows = [batch.keys.index(key) for key in keys]
        whole = Queue.kv_batch_get(trainer.queue, batch.keys, "train", list(trainer.queue.columns))
        return {name: jagged([whole[name][row] for row in rows]) for name in ("response_mask", "entropy", "responses")}

    monkeypatch.setattr(trainer.queue, "kv_batch_get", kv_batch_get)
    monkeypatch.setattr(guards_batch, "ROWS", 3)
    found = guards_batch.inspect(trainer.queue, batch, trainer.config, 4)
    assert asked == [["a_0_0", "b_0_0", "a_1_0"], ["b_1_0"]]
    assert found.entropy == 2
    columns = guards_batch.columns(trainer.queue, batch, None, ["b_1_0"], 3)
    assert columns["key"] == ["b_0_0", "b_1_0", "a_0_0"]
    assert [len(row) for row in columns["responses"]] == [3, 2, 2]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("data.train_batch_size=6",), 6),
        (("data.train_batch_size=6", "trainer.v1.sampler.sync_refill_failed_groups=true"), 8),
        (("data.train_batch_size=64", "trainer.v1.trainer_mode=colocate_async"), 64),
        (("data.train_batch_size=64", "+verl_ext.guards.failed_groups=3"), 3),
    ],
)
def test_failed_groups_default_to_a_batch(make, overrides: tuple[str, ...], expected: int) -> None:
    assert make(*overrides).verl_ext_guards.failures.limit == expected


# --- from the session that failed to the controller


class FailingBuffer:
    """verl's replay buffer with its own reading of the prompts, over a stand-in for TransferQueue."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, prompts: dict[str, dict], limit: int) -> None:
        tq = SimpleNamespace(kv_list=lambda partition=None: {"train": prompts})
        monkeypatch.setattr(replay_buffer, "tq", tq)
        self.buffer = replay_buffer.ReplayBuffer(
            trainer_mode="sync",
            trainer_config=None,
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs={},
        )
        guards_sessions.watch(self.buffer, tq, SessionFailures(limit, "score of r.py"), GuardError)


def test_the_replay_buffers_look_at_the_prompts_stops_the_run_with_the_exception(monkeypatch) -> None:
    failed = {"is_prompt": True, "status": "failure", "global_steps": 1}
    prompts = {uid: {**failed, f"{guards_sessions.TAG}0": "KeyError: 'x'"} for uid in ("a", "b")}
    with pytest.raises(GuardError, match="2 x KeyError: 'x'"):
        FailingBuffer(monkeypatch, prompts, 2).buffer.sample(1, "train", 2)
    prompts["a_0_0"] = {"is_prompt": False}
    buffer = FailingBuffer(monkeypatch, prompts, 2).buffer
    buffer._sync_metadata_from_transfer_queue()  # a came back in part
    assert buffer.failure_keys["train"] == {"a", "b"}


def test_the_worker_tags_the_prompt_with_what_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    tags: list[tuple[str, str, dict]] = []

    async def async_kv_put(key: str, partition_id: str, tag: dict) -> None:
        tags.append((key, partition_id, tag))

    class Worker:
        reward_loop_worker_handles = ("handle",)

        async def _compute_score(self, outputs: Any, kwargs: Any) -> None:
            raise KeyError("answer")

        async def _run_agent_loop(self, sampling_params: Any, trajectory: dict, *, agent_name: str, **kwargs: Any):
            await self._compute_score([], kwargs=kwargs)

    import transfer_queue

    monkeypatch.setattr(transfer_queue, "async_kv_put", async_kv_put)
    guards_sessions.bind_agent_loop(SimpleNamespace(AgentLoopWorker=Worker))  # type: ignore[arg-type]
    for validate in (False, True):
        with pytest.raises(KeyError):
            asyncio.run(Worker()._run_agent_loop({}, {"validate": validate}, agent_name="a", uid="u", session_id=3))
    (key, partition, tag), (_, second, _) = tags
    assert (key, partition, second) == ("u", "train", "val")
    (text,) = tag.values()
    assert list(tag) == ["verl_ext_failure_3"]
    assert text.startswith("the reward function raised KeyError: 'answer' (")
    assert "test_bridge.py:" in text


def test_a_score_that_is_none_is_a_failed_session_with_its_cause() -> None:
    """Of a reward model that is asked after the rollout, a score that is not there yet is in order."""

    class Worker:
        def __init__(self, handles: Any, score: float | None) -> None:
            self.reward_loop_worker_handles, self.score = handles, score

        async def _compute_score(self, outputs: Any, kwargs: Any) -> None:
            outputs[-1].reward_score = self.score

        async def _run_agent_loop(self) -> None: ...

    guards_sessions.bind_agent_loop(SimpleNamespace(AgentLoopWorker=Worker))  # type: ignore[arg-type]
    outputs = [SimpleNamespace(reward_score=None)]
    asyncio.run(Worker(None, None)._compute_score(outputs, kwargs={}))
    asyncio.run(Worker(["handle"], 0.0)._compute_score(outputs, kwargs={}))
    with pytest.raises(TypeError) as caught:
        asyncio.run(Worker(["handle"], None)._compute_score(outputs, kwargs={}))
    assert guards_sessions.cause(caught.value).startswith(
        "TypeError: the reward function returned None for a score; a number is wanted ("
    )


def test_an_error_from_another_process_is_named_with_the_place_where_it_was_raised() -> None:
    text = 'ray::Worker\n  File "/a/loop.py", line 3, in run\n  File "/b/reward.py", line 7, in compute_score\nKeyError'
    error = RayTaskError("compute_score", text, KeyError("x")).as_instanceof_cause()
    error.verl_ext_stage = "the reward function raised "  # as our wrap around it does
    assert guards_sessions.cause(error) == (
        "the reward function raised KeyError: 'x' (/b/reward.py:7, in compute_score)"
    )


# --- contracts


def test_contract_the_guards_are_the_outer_wraps_of_all_trainers() -> None:
    for name in ("__init__", "_compute_advantage", "_update_actor", "_update_critic"):
        bound = vars(PPOTrainer)[name]
        assert "guards" in bound.__code__.co_filename, name
        assert name == "__init__" or name not in vars(trainer_sync.PPOTrainerSync)
    assert list(inspect.signature(inspect.unwrap(PPOTrainer.__init__)).parameters) == ["self", "config"]
    assert list(inspect.signature(inspect.unwrap(PPOTrainer._update_critic)).parameters) == ["self", "batch", "metrics"]


def test_contract_a_step_makes_the_advantages_then_updates_then_saves_then_pushes_the_weights() -> None:
    """An update that is left out after a rollback relies on it: what is saved and pushed are the restored weights."""
    step = inspect.getsource(PPOTrainer._step_once)
    calls = ["self._compute_advantage(", "self._update_critic(", "self._update_actor("]
    assert sorted(calls, key=step.index) == calls
    fit = inspect.getsource(PPOTrainer.fit)
    calls = ["self.step(", "self._save_checkpoint()", "self.on_step_end()"]
    assert sorted(calls, key=fit.index) == calls
    assert "update_weights" in inspect.getsource(trainer_sync.PPOTrainerSync.on_step_end)


def test_contract_loading_and_the_layout_of_checkpoints() -> None:
    load = inspect.getsource(inspect.unwrap(PPOTrainer._load_checkpoint))
    assert 'local_path=os.path.join(global_step_folder, "actor")' in load
    assert "del_local_after_load=" in load
    save = inspect.getsource(inspect.unwrap(PPOTrainer._save_checkpoint))
    assert '"latest_checkpointed_iteration.txt"' in save
    assert 'f"global_step_{self.global_steps}"' in save


def test_contract_fsdp_skips_an_update_whose_gradient_is_not_finite_and_reports_its_norm() -> None:
    source = inspect.getsource(transformer_impl.FSDPEngine.optimizer_step)
    assert "if not torch.isfinite(grad_norm):" in source
    assert "self.optimizer.zero_grad()" in source
    assert "return grad_norm.item()" in source
    assert "if param_dtype == torch.float16:" in inspect.getsource(transformer_impl.FSDPEngine._build_fsdp_module)


def test_contract_what_the_replay_buffer_keeps_of_the_prompts() -> None:
    source = inspect.getsource(replay_buffer.ReplayBuffer.sample)
    assert "self._sync_metadata_from_transfer_queue()" in source
    assert "sync_refill_failed_groups" in inspect.getsource(PPOTrainer._build_replay_buffer)
    assert issubclass(replay_buffer.ReplayBufferAsync, replay_buffer.ReplayBuffer)


def test_contract_sessions_run_in_the_methods_that_are_wrapped() -> None:
    worker = agent_loop.AgentLoopWorker
    parameters = inspect.signature(inspect.unwrap(worker._run_agent_loop)).parameters
    assert list(parameters)[:3] == ["self", "sampling_params", "trajectory"]
    scoring = inspect.getsource(inspect.unwrap(worker._compute_score))
    assert "enable_async_reward = self.reward_loop_worker_handles is not None" in scoring
    assert "final_output = outputs[-1]" in scoring
    source = inspect.getsource(verl_agent_loop_tq)
    assert "session_id=i, **prompt" in source
    assert "await self._compute_score(outputs, kwargs=kwargs)" in source
    assert 'partition_id = prompt["uid"], "train" if not trajectory["validate"] else "val"' in source

"""Prompts whose responses all earn the same: how they are counted, and what a run is told of which nothing is left."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import NonTensorStack, TensorDict
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import PPOTrainer, replay_buffer, trainer_sync, utils

from tests.bridge.configurations import compose
from tests.bridge.micro_batches import jagged
from tests.bridge.test_controller import meta
from tests.guards.test_bridge import LENGTHS, compute, make  # noqa: F401
from verl_ext import plugin
from verl_ext.bridge import guards, guards_batch, guards_signal
from verl_ext.run import settings as run_settings
from verl_ext.run import state as run_state
from verl_ext.run.guards import GuardError, configuration, no_signal
from verl_ext.run.guards.no_signal import Example, Graded, SignalWatch
from verl_ext.run.guards.settings import GuardSettings
from verl_ext.run_report import catalogue

NAN = float("nan")


def rows(**prompts: tuple[float, ...]) -> list[Graded]:
    """Rows of the prompts, one session after the other; right where the reward is above 0."""
    return [Graded(f"{uid}_{n}_0", r, r > 0) for uid, rewards in prompts.items() for n, r in enumerate(rewards)]


# --- counting


def test_groups_of_different_sizes() -> None:
    """a has a spread; b is all right, c all wrong with two sessions lost, d a single response: 3 of 4 have none."""
    found = no_signal.count(rows(a=(0, 1, 0), b=(1, 1, 1, 1), c=(0, 0), d=(1,)))
    assert found.shares() == {
        "train/groups_without_spread": 0.75,
        "train/groups_all_right": 0.5,
        "train/groups_all_wrong": 0.25,
    }
    assert no_signal.count([]).shares() == {}
    assert all(catalogue.find(name) for name in found.shares())


def test_the_order_of_the_rows_does_not_matter() -> None:
    ordered = rows(a=(0, 1), b=(1, 1), c=(0, 0))
    assert no_signal.count(ordered[::-2] + ordered[-2::-2]) == no_signal.count(ordered)


def test_equal_rewards_of_which_the_verifier_thinks_differently_are_neither_right_nor_wrong() -> None:
    found = no_signal.count([Graded("a_0_0", 0.5, True), Graded("a_1_0", 0.5, False)])
    assert (found.without_spread, found.all_right, found.all_wrong) == (1, 0, 0)


@pytest.mark.parametrize(("rewards", "spread"), [((0.5, 0.5 + 1e-7), False), ((0.5, 0.501), True), ((-1, -0.5), True)])
def test_what_a_spread_is(rewards: tuple[float, ...], spread: bool) -> None:
    assert no_signal.count(rows(a=rewards)).teach(grouped=True) is spread


def test_rewards_that_are_no_numbers_teach_nothing() -> None:
    assert not no_signal.count(rows(a=(NAN, NAN), b=(NAN, 1, 1))).teach(grouped=True)
    assert not no_signal.count(rows(a=(NAN,), b=(NAN,))).teach(grouped=False)


def test_without_groups_the_whole_batch_is_compared() -> None:
    """b is better than a, which an estimator that normalises over the batch learns from and GRPO does not."""
    found = no_signal.count(rows(a=(0, 0))) + no_signal.count(rows(b=(1, 1)))
    assert found.teach(grouped=False)
    assert not found.teach(grouped=True)


@pytest.mark.parametrize(
    ("verdict", "reward", "right"),
    [
        ({"outcome": "correct", "acc": 0}, -1, True),
        ({"outcome": "timeout", "acc": 1}, 1, False),
        ({"outcome": "of another kind", "acc": True}, -1, True),
        ({"acc": np.bool_(False)}, 1, False),
        ({"acc": "not known"}, 1, True),
        ({"acc": None}, 0, False),
        ({}, 0.25, True),
        ({}, -1, False),
        ({}, NAN, False),
    ],
)
def test_who_says_what_is_right(verdict: dict, reward: float, right: bool) -> None:
    """The verifier's outcome before its accuracy, and the reward where it gives neither."""
    assert no_signal.is_right(reward, verdict) is right


# --- the watch


def test_the_watch_fires_once_a_streak() -> None:
    watch = SignalWatch(2)
    assert [watch.observe(signal) for signal in (False, True, False, False, False, True, False, False)] == [
        *(False, False, False, True),
        *(False, False, False, True),
    ]


def test_an_example_is_one_that_is_not_right() -> None:
    assert no_signal.example_of(rows(a=(1, 1), b=(0, 0))).key == "b_0_0"


def test_of_a_long_response_both_ends_are_shown() -> None:
    text = no_signal.shortened("a\n" + "x" * 1000 + "\\boxed{4}")
    assert text.startswith('"a\\nxx')
    assert text.endswith('boxed{4}"')
    assert "x ... 411 characters ... x" in text.replace('"', "")  # 1,011 of which 600 are shown
    assert no_signal.shortened("häßlich") == '"häßlich"'


def test_what_is_not_known_of_an_example_is_said() -> None:
    text = Example("a_0_0", None, None, 0.0, {}).explain()
    assert "response: not known" in text
    assert "ground truth: not known" in text


def test_a_validation_that_scores_nothing_is_a_note() -> None:
    """Of the figures that verl puts first; that of another data source or of another kind does not hide it."""
    zero = {"val-core/verl_ext/demo/acc/mean@1": 0.0, "val-core/math/reward/mean@8": 0, "val-aux/math/boxed/mean@8": 1}
    note = no_signal.note_of_validation(zero, "score of r.py")
    assert note is not None
    assert "scores 0 on math, verl_ext/demo." in note
    assert "score of r.py" in note
    assert no_signal.note_of_validation({**zero, "val-core/math/reward/mean@8": 0.1}, "") is None
    assert no_signal.note_of_validation({"val-aux/num_turns/mean": 0}, "") is None


# --- in verl's trainer


def wrong(trainer: Any) -> Any:
    """Every response has reward 0, and the verifier calls it wrong."""
    trainer.queue.columns["rm_scores"] = jagged([torch.zeros(n) for n in LENGTHS])
    verdicts = [{"reward_extra_info": {"verified": True, "outcome": "wrong", "acc": 0.0}}] * len(LENGTHS)
    trainer.queue.columns["extra_fields"] = NonTensorStack(*verdicts)
    return trainer


def steps(trainer: Any, number: int, first: int = 1) -> list[dict[str, Any]]:
    found = []
    for step in range(first, first + number):
        trainer.global_steps = step
        found.append(compute(trainer))
    return found


class Tokenizer:
    """Decodes as verl's would."""

    def decode(self, row: torch.Tensor) -> str:
        return " ".join(str(int(token)) for token in row)


def test_after_three_steps_without_signal_the_run_is_told_with_an_example(make, tmp_path: Path, capsys) -> None:  # noqa: F811
    trainer = wrong(make())
    trainer.tokenizer = Tokenizer()
    assert steps(trainer, 2)[-1]["train/groups_all_wrong"] == 1
    assert "no_signal" not in capsys.readouterr().err
    assert steps(trainer, 1, first=3)[-1]["train/groups_without_spread"] == 1
    text = capsys.readouterr().err
    for part in (
        "guard 'no_signal', step 3: for 3 steps in a row",
        "Of the last 1 prompts 0 were answered right by every response, 1 by none.",
        'response: "0 1"',
        'ground truth: "0"',
        "reward: 0 (outcome=wrong, acc=0.0)",
    ):
        assert part in text, text
    steps(trainer, 1, first=4)
    assert "no_signal" not in capsys.readouterr().err  # once a streak
    (folder,) = (tmp_path / "guards").iterdir()
    reason = json.loads((folder / "reason.json").read_text())
    assert (reason["action"], reason["figures"]["example"]["key"]) == ("warn", "u_0_0")


def test_a_step_with_a_spread_begins_anew(make, capsys) -> None:  # noqa: F811
    trainer = wrong(make())
    steps(trainer, 2)
    sound = trainer.queue.columns["rm_scores"]
    trainer.queue.columns["rm_scores"] = jagged([torch.full((n,), float(n == 3)) for n in LENGTHS])
    assert steps(trainer, 1, first=3)[-1]["train/groups_without_spread"] == 0
    trainer.queue.columns["rm_scores"] = sound
    steps(trainer, 2, first=4)
    assert "no_signal" not in capsys.readouterr().err


def test_stop_and_off(make, capsys) -> None:  # noqa: F811
    with pytest.raises(GuardError, match="no_signal"):
        steps(wrong(make("+verl_ext.guards.no_signal_action=stop", "+verl_ext.guards.no_signal_steps=1")), 1)
    capsys.readouterr()
    assert steps(wrong(make("+verl_ext.guards.no_signal_action=off")), 4)[-1]["train/groups_without_spread"] == 1
    assert capsys.readouterr().err == ""


def test_the_streak_survives_a_resume(make, capsys) -> None:  # noqa: F811
    steps(wrong(make()), 2)
    saved = json.loads(json.dumps(run_state.state()))
    again = wrong(make())
    run_state.restore(saved)
    capsys.readouterr()
    steps(again, 1, first=3)
    assert "no_signal" in capsys.readouterr().err


def test_a_checkpoint_from_before_this_guard_is_resumed(make) -> None:  # noqa: F811
    make()
    state = run_state.state()["guards"]
    del state["no_signal"]
    run_state.restore({"guards": {**state, "skipped": 2}})
    assert run_state.state()["guards"]["skipped"] == 2


def test_padding_is_not_counted(make) -> None:  # noqa: F811
    """The one row with another reward was added by verl."""
    trainer = wrong(make())
    trainer.queue.columns["rm_scores"] = jagged([torch.full((n,), float(n == 1)) for n in LENGTHS])
    batch = meta(4, padding=(2,))
    graded = guards_batch.inspect(trainer.queue, batch, trainer.config, 4).graded
    assert [row.key for row in graded] == ["u_0_0", "u_1_0", "u_3_0"]
    assert graded == guards_batch.graded(trainer.queue, batch)
    assert not no_signal.count(graded).teach(grouped=True)


def test_a_run_of_verls_own_is_left_alone(make, capsys) -> None:  # noqa: F811
    trainer = wrong(make())
    own = ("actor_rollout_ref.rollout.name=vllm", "algorithm.adv_estimator=grpo", "data.train_batch_size=1")
    trainer.config = compose(*own)
    trainer.verl_ext_guards = type(trainer.verl_ext_guards)(trainer, trainer.queue)
    capsys.readouterr()
    assert not [name for found in steps(trainer, 3) for name in found if name.startswith("train/")]
    assert capsys.readouterr().err == ""


def test_the_batches_of_one_step_are_counted_together(make, capsys) -> None:  # noqa: F811
    """Two updates a step: one without a spread and one with, so that half of the step's prompts have none."""
    mode = ("trainer.v1.trainer_mode=separate_async", "trainer.v1.separate_async.parameter_sync_step=2")
    trainer = wrong(make(*mode, "data.train_batch_size=2"))
    sound, metrics = trainer.queue.columns["rm_scores"], {}
    for _ in range(3):
        trainer.local_trigger_step = 0
        assert "train/groups_without_spread" not in compute(trainer)
        trainer.local_trigger_step = 1
        trainer.queue.columns["rm_scores"] = jagged([torch.full((n,), float(n == 3)) for n in LENGTHS])
        metrics = compute(trainer)
        trainer.queue.columns["rm_scores"] = sound
    assert metrics["train/groups_without_spread"] == 0.5
    assert "no_signal" not in capsys.readouterr().err
    aggregator = utils.MetricsAggregator()
    aggregator.add_step_metrics({}, sample_count=4)
    aggregator.add_step_metrics(metrics, sample_count=4)
    assert aggregator.get_aggregated_metrics()["train/groups_without_spread"] == 0.5


@pytest.mark.parametrize(("step", "said"), [(0, True), (3, False)])
def test_only_the_validation_before_training_is_looked_at(make, capsys, step: int, said: bool) -> None:  # noqa: F811
    """verl's own metrics of two answers, without the rollout that gives them."""

    class Trainer(trainer_sync.PPOTrainerSync):
        def _validate(self) -> dict[str, float]:
            return self._val_metrics_update(["math"] * 2, ["u", "v"], {"reward": [0.0] * 2, "acc": [0.0] * 2}, [])

    guards.bind(SimpleNamespace(PPOTrainer=Trainer, tq=None))  # type: ignore[arg-type]
    trainer = object.__new__(Trainer)
    vars(trainer).update(vars(make()), global_steps=step)
    assert trainer._validate()["val-core/math/acc/mean@1"] == 0
    assert ("validation scores 0 on math" in capsys.readouterr().err) is said


# --- before verl's filter takes groups away


class Prompts:
    """What the replay buffer uses of TransferQueue: prompts that have come back, until they are cleared."""

    def __init__(self, **prompts: tuple[float, ...]) -> None:
        self.rewards = {f"{uid}_{n}_0": r for uid, rewards in prompts.items() for n, r in enumerate(rewards)}
        self.tags = {uid: {"is_prompt": True, "status": "finished", "global_steps": 1} for uid in prompts}
        self.asked: list[set[str]] = []

    def kv_list(self) -> dict[str, dict]:
        return {"train": {**self.tags, **{key: {} for key in self.rewards}}}

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        self.asked.append(set(select_fields))
        columns = {
            "rm_scores": jagged([torch.tensor([0.0, self.rewards[key]]) for key in keys]),
            "responses": jagged([torch.tensor([7, 8]) for _ in keys]),
            "extra_fields": NonTensorStack(*[{"reward_extra_info": {"acc": self.rewards[key]}} for key in keys]),
            "reward_model": NonTensorStack(*[{"ground_truth": "42"} for _ in keys]),
        }
        wanted = {name: column for name, column in columns.items() if name in select_fields}
        return TensorDict(wanted, batch_size=len(keys))

    def kv_clear(self, partition_id: str, keys: list[str]) -> None:
        for key in keys:
            self.tags.pop(key, None)
            self.rewards.pop(key, None)


class Refill:
    """Puts prompts into the queue as they are asked for, and ends a test that would go on for ever."""

    def __init__(self, queue: Prompts, rewards: tuple[float, ...]) -> None:
        self.queue, self.rewards, self.number = queue, rewards, 0

    def __call__(self, number: int) -> int:
        for _ in range(number):
            self.number += 1
            assert self.number < 50, "the buffer refills for ever, and nobody says so"
            more = Prompts(**{f"more{self.number}": self.rewards})
            self.queue.tags.update(more.tags)
            self.queue.rewards.update(more.rewards)
        return number


BUFFERS = {"sync": replay_buffer.ReplayBuffer, "separate_async": replay_buffer.ReplayBufferAsync}


def filtering(trainer: Any, queue: Prompts, monkeypatch: pytest.MonkeyPatch, mode: str, more: tuple[float, ...]) -> Any:
    """verl's own buffer over the queue, filtering by accuracy, with the trainer's watch on it."""
    monkeypatch.setattr(replay_buffer, "tq", queue)
    trainer.verl_ext_guards.tq = queue
    buffer = BUFFERS[mode](
        trainer_mode=mode,
        trainer_config=None,
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs={},
        poll_interval=0,
        refill_fn=Refill(queue, more),
        filter_groups_metric="acc",
        train_batch_size=2,
        gen_batch_size=1,
        max_inflight_gen_batches=2,
    )
    guards_signal.watch(buffer, trainer.verl_ext_guards.signal.taken_away)
    return buffer


@pytest.mark.parametrize("mode", BUFFERS)
def test_groups_are_counted_before_the_filter_takes_them_away(make, monkeypatch, mode: str) -> None:  # noqa: F811
    """b and c are taken away and two others with a spread come for them (or four, of which the surplus is dropped).

    Of all prompts that came back, those in the batch (the one of the fixture, without a spread) included, three have
    no spread: b all right, c all wrong, and the fixture's.
    """
    trainer = wrong(make("data.train_batch_size=2"))
    queue = Prompts(a=(0.0, 1.0), b=(1.0, 1.0, 1.0), c=(0.0, 0.0))
    buffer = filtering(trainer, queue, monkeypatch, mode, more=(0.0, 1.0))
    batch, found = buffer.sample(1, "train", 2)
    assert found["training/filter_groups/evicted_samples"] == 2
    surplus = found.get("training/filter_groups/discarded_surplus_samples", 0)
    assert len({key.split("_")[0] for key in batch.keys}) == 2
    assert not any("responses" in asked for asked in queue.asked)  # scalars only
    trainer.verl_ext_guards.tq = trainer.queue
    metrics = compute(trainer)
    assert metrics["train/groups_without_spread"] == pytest.approx(3 / (2 + surplus + 1))
    assert metrics["train/groups_all_right"] == pytest.approx(1 / (2 + surplus + 1))
    assert compute(trainer)["train/groups_without_spread"] == 1  # the next step counts anew


@pytest.mark.parametrize("mode", BUFFERS)
@pytest.mark.parametrize("action", ["warn", "stop"])
def test_a_filter_that_leaves_nothing_is_told_while_verl_waits(make, monkeypatch, capsys, mode, action) -> None:  # noqa: F811
    """Three batches of two prompts: verl alone goes on for ever, as the test's refill would not."""
    trainer = wrong(make("data.train_batch_size=2", f"+verl_ext.guards.no_signal_action={action}"))
    trainer.tokenizer = Tokenizer()
    buffer = filtering(trainer, Prompts(a=(0.0, 0.0), b=(0.0, 0.0)), monkeypatch, mode, more=(0.0, 0.0))
    with pytest.raises(GuardError if action == "stop" else AssertionError, match=r"3 batches|for ever"):
        buffer.sample(1, "train", 2)
    text = capsys.readouterr().err
    assert text.count("for 3 batches, all taken away by filter_groups, in a row") == 1
    assert 'response: "7 8"' in text
    assert 'ground truth: "42"' in text
    if action == "stop":
        assert buffer.refill_fn.number <= 8


def test_a_prompt_that_waits_for_its_step_ends_the_streak(make, monkeypatch, capsys) -> None:  # noqa: F811
    """One prompt with a spread is kept: what the filter takes away beside it is no reason to worry."""
    trainer = wrong(make("data.train_batch_size=2"))
    buffer = filtering(trainer, Prompts(a=(0.0, 1.0)), monkeypatch, "separate_async", more=(0.0, 0.0))
    buffer.refill_fn(1)
    with pytest.raises(AssertionError, match="for ever"):
        buffer.sample(1, "train", 2)
    assert "no_signal" not in capsys.readouterr().err


def test_validation_is_not_counted(make, monkeypatch) -> None:  # noqa: F811
    trainer = wrong(make())
    buffer = filtering(trainer, Prompts(), monkeypatch, "sync", more=(0.0,))
    buffer.partitions["val"]["a_0_0"] = {}
    buffer._clear_groups("val", {"a"})
    trainer.verl_ext_guards.tq = trainer.queue
    assert compute(trainer)["train/groups_without_spread"] == 1


# --- before the start


def test_one_response_a_prompt_is_refused_with_every_estimator_that_compares_them() -> None:
    config = compose("+backend=cpu", "actor_rollout_ref.rollout.n=1")
    refused = set()
    for estimator in core_algos.ADV_ESTIMATOR_REGISTRY:
        config.algorithm.adv_estimator = estimator
        found = configuration.faults(config)
        assert all(f"rollout.n=1: the estimator {estimator} compares" in fault for fault in found)
        refused |= {estimator} if found else set()
    assert refused == {*configuration.GROUP_ESTIMATORS, *plugin.ESTIMATORS}
    config.actor_rollout_ref.rollout.n = 2
    config.algorithm.adv_estimator = "grpo"
    assert configuration.faults(config) == []


def test_a_run_of_verls_own_may_have_one_response_a_prompt() -> None:
    config = compose("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=1")
    assert not run_settings.ours(config)
    assert configuration.faults(config) == []


def test_a_fault_of_the_section_does_not_hide_it() -> None:
    config = compose("+backend=cpu", "+algo=grpo", "actor_rollout_ref.rollout.n=1", "+verl_ext.guards.max_rows=0")
    assert len(configuration.faults(config)) == 1


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"no_signal_steps": 0}, "no_signal_steps=0 must be a whole number >= 1"),
        ({"no_signal_action": "skip"}, "no_signal_action='skip'"),
        (
            {"no_signal_steps": 9, "no_signal_action": "off"},
            "no_signal_steps=9 is read with no_signal_action=warn or stop only",
        ),
    ],
)
def test_faults_of_its_settings(given: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=r"verl_ext\.guards") as caught:
        GuardSettings(**given)
    assert fault in str(caught.value)


# --- contracts


def test_contract_verls_estimators_that_compare_responses_take_the_prompts() -> None:
    """A new one of verl's that does fails here, to be added to the table."""
    taking = {
        str(name)
        for name, estimator in core_algos.ADV_ESTIMATOR_REGISTRY.items()
        if name not in plugin.ESTIMATORS and "index" in inspect.signature(estimator).parameters
    }
    assert taking == set(configuration.GROUP_ESTIMATORS)


def test_contract_everything_that_verl_drops_goes_through_one_method() -> None:
    for cls in BUFFERS.values():
        assert cls._clear_groups is replay_buffer.ReplayBuffer._clear_groups
    assert list(inspect.signature(cls._clear_groups).parameters) == ["self", "partition_id", "uids"]
    assert "self._clear_groups(partition_id, evicted_uids)" in inspect.getsource(cls._evict_terminal_groups)
    assert "self._clear_groups(partition_id, surplus_uids)" in inspect.getsource(replay_buffer.ReplayBuffer.sample)
    assert "for trigger_idx in range(self.parameter_sync_step)" in inspect.getsource(PPOTrainer.step)

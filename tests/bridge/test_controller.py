"""The token context around the advantage estimators, on the controller, and the verifier's outcomes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.v1 import (
    PPOTrainer,
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    trainer_base,
)

from tests.bridge.configurations import compose
from tests.bridge.micro_batches import jagged
from verl_ext import current_context
from verl_ext.bridge import controller, execution
from verl_ext.bridge.controller import as_list, fetch_context, outcome_shares, verified_flags
from verl_ext.context import TokenContext
from verl_ext.rewards.math import OUTCOMES
from verl_ext.rollout.mismatch import MismatchError

NAN = float("nan")
ESPO = compose("+backend=cpu", "+algo=espo")


class Queue:
    """What the controller uses of TransferQueue, which leaves out fields that it does not have."""

    def __init__(self, **columns: Any) -> None:
        self.columns = columns
        self.put: dict[str, Any] = {}
        self.last: KVBatchMeta | None = None

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        assert partition_id == "train"
        found = {name: value for name, value in self.columns.items() if name in select_fields}
        return TensorDict(found, batch_size=len(keys))

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: TensorDict) -> KVBatchMeta:
        self.put.update(fields.items())
        self.last = meta(len(keys))
        return self.last


def meta(rows: int, padding: tuple[int, ...] = ()) -> KVBatchMeta:
    tags = [{"is_padding": True} if row in padding else {} for row in range(rows)]
    return KVBatchMeta(keys=[f"u_{row}_0" for row in range(rows)], tags=tags, partition_id="train")


def verdict(verified: bool | None, outcome: str | None = None) -> dict[str, Any]:
    found = {"verified": verified, "outcome": outcome}
    return {"reward_extra_info": {key: value for key, value in found.items() if value is not None}}


def test_a_row_without_the_flag_counts_as_not_judged_where_others_have_it() -> None:
    assert verified_flags([{"verified": True}, {}, {"verified": False}]).tolist() == [True, False, False]


def test_no_flag_anywhere_means_that_there_is_no_such_verifier() -> None:
    assert verified_flags([{}, {"score": 1.0}]) is None
    assert verified_flags([]) is None


def test_outcome_shares_count_the_rows_that_have_an_outcome() -> None:
    rows = [{"outcome": name} for name in ("correct", "wrong", "wrong", "timeout")] + [{}]
    shares = outcome_shares(rows)
    assert set(shares) == {f"reward/outcome/{name}" for name in OUTCOMES}  # the same keys at every step
    assert shares["reward/outcome/correct"] == 0.25
    assert shares["reward/outcome/wrong"] == 0.5
    assert shares["reward/outcome/timeout"] == 0.25
    assert sum(shares.values()) == 1
    assert outcome_shares([{}]) == {}


@pytest.mark.parametrize("make", [list, tuple, lambda rows: NonTensorStack(*rows)])
def test_as_list_takes_every_form_of_a_column(make: Callable[[list[Any]], Any]) -> None:
    rows = [{"a": 1}, {"b": 2}]
    assert as_list(make(rows)) == rows


def test_the_context_is_padded_and_in_the_order_of_the_keys() -> None:
    entropy = [torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([4.0, 5.0, 6.0])]
    rows = [verdict(True, "correct"), verdict(False, "timeout"), verdict(True, "correct")]
    queue = Queue(
        entropy=jagged(entropy),
        old_log_probs=jagged([-value for value in entropy]),
        response_mask=jagged([torch.ones_like(value) for value in entropy]),
        extra_fields=NonTensorStack(*rows),
    )
    shares: dict[str, float] = {}
    context = fetch_context(queue, meta(3, padding=(2,)), shares, ESPO)
    assert context.old_entropy.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert context.old_log_prob.tolist() == [[-1, -2, 0], [-3, 0, 0], [-4, -5, -6]]
    assert context.ref_log_prob is None
    assert context.verified.tolist() == [True, False, True]
    # The padding row is no answer of the model: one of two real rows is correct.
    assert shares["reward/outcome/correct"] == 0.5
    assert shares["reward/outcome/timeout"] == 0.5


def test_a_batch_without_extra_fields_has_no_verdicts() -> None:
    rows = jagged([torch.ones(2), torch.ones(1)])
    outcomes: dict[str, float] = {}
    context = fetch_context(Queue(old_log_probs=rows, response_mask=rows), meta(2), outcomes, ESPO)
    assert context.verified is None
    assert context.old_entropy is None
    assert not [name for name in outcomes if name.startswith("reward/")]


def test_rows_without_an_answer_of_the_reward_function_are_allowed() -> None:
    verdicts = NonTensorStack(verdict(True), {}, {"reward_extra_info": None})
    queue = Queue(extra_fields=verdicts, response_mask=jagged([torch.ones(1)] * 3))
    assert fetch_context(queue, meta(3), {}, ESPO).verified.tolist() == [True, False, False]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Queue, KVBatchMeta]:
    """What `_compute_advantage` reads of a trainer, and a queue with three answers to one prompt.

    Rewards 1, 0, 0; the third answer could not be judged.
    """
    lengths = [2, 3, 1]
    scores = [torch.zeros(n) for n in lengths]
    scores[0][-1] = 1
    queue = Queue(
        uid=NonTensorStack("u", "u", "u"),
        responses=jagged([torch.arange(n) for n in lengths]),
        response_mask=jagged([torch.ones(n, dtype=torch.long) for n in lengths]),
        rm_scores=jagged(scores),
        old_log_probs=jagged([-torch.ones(n) for n in lengths]),
        entropy=jagged([torch.ones(n) for n in lengths]),
        extra_fields=NonTensorStack(verdict(True, "correct"), verdict(True, "wrong"), verdict(False, "unparsable")),
    )
    monkeypatch.setattr(trainer_base, "tq", queue)
    return SimpleNamespace(config=compose("+backend=cpu", "+algo=espo"), tokenizer=None), queue, meta(3)


def test_verls_own_advantage_step_runs_our_estimator_with_its_verdicts(trainer: Any) -> None:
    """Mean 1/2 and unbiased std sqrt(1/2) over the two judged rows: 1/2 / (sqrt(1/2) + 1e-6) = 0.707106."""
    self, queue, batch = trainer
    metrics: dict[str, Any] = {}
    PPOTrainer._compute_advantage(self, batch, metrics)
    advantages = [row.tolist() for row in queue.put["advantages"].unbind()]
    assert [len(row) for row in advantages] == [2, 3, 1]
    assert advantages[0] == pytest.approx([0.707106] * 2, abs=1e-6)
    assert advantages[1] == pytest.approx([-0.707106] * 3, abs=1e-6)
    assert advantages[2] == [0]
    assert metrics["reward/outcome/unparsable"] == pytest.approx(1 / 3)


def test_the_context_holds_during_the_estimator_and_not_afterwards(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TokenContext] = []

    def estimator(token_level_rewards: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(current_context())
        return token_level_rewards, token_level_rewards

    monkeypatch.setitem(ADV_ESTIMATOR_REGISTRY, "espo", estimator)
    self, _, batch = trainer
    PPOTrainer._compute_advantage(self, batch, {})
    assert seen[0].old_entropy.shape == (3, 3)
    assert current_context() == TokenContext()


def test_the_entropy_groups_are_computed_once_and_travel_with_the_batch(trainer: Any) -> None:
    """Five tokens, the fourth taken out by verl's rollout correction: n = 4, floor(0.8 * 4 + 0.5) = 3 tokens below."""
    self, queue, batch = trainer
    queue.columns |= {
        "entropy": jagged([torch.tensor([3.0, 1.0, 2.0, 9.0, 4.0]), torch.ones(1), torch.ones(2)]),
        "responses": jagged([torch.arange(n) for n in (5, 1, 2)]),
        "response_mask": jagged([torch.tensor([1, 1, 1, 0, 1]), torch.zeros(1).long(), torch.ones(2).long()]),
        "rm_scores": jagged([torch.zeros(n) for n in (5, 1, 2)]),
        "old_log_probs": jagged([torch.zeros(n) for n in (5, 1, 2)]),
    }
    returned = PPOTrainer._compute_advantage(self, batch, {})
    ids = [row.tolist() for row in queue.put["group_ids"].unbind()]
    assert ids == [[0, 0, 0, -1, 1], [-1], [0, 0]]
    assert returned is queue.last  # an older batch would not carry the new field to the workers


def test_segments_are_made_with_the_models_tokenizer(trainer: Any) -> None:
    from verl_ext.toy.models import build_tokenizer

    self, queue, batch = trainer
    self.tokenizer = build_tokenizer()
    self.config = compose("+backend=cpu", "+algo=sspo", "algorithm.adv_estimator=grpo")
    rows = [self.tokenizer.encode(text, add_special_tokens=False) for text in ("a\n\nb", "c", "\n\n\n\n")]
    lengths = [len(row) for row in rows]
    queue.columns |= {
        "responses": jagged([torch.tensor(row) for row in rows]),
        "response_mask": jagged([torch.ones(n).long() for n in lengths]),
        "rm_scores": jagged([torch.zeros(n) for n in lengths]),
        "old_log_probs": jagged([torch.zeros(n) for n in lengths]),
        "entropy": jagged([torch.zeros(n) for n in lengths]),
    }
    PPOTrainer._compute_advantage(self, batch, {})
    assert lengths == [4, 1, 4], "the demo's tokenizer has one token a byte"
    assert [row.tolist() for row in queue.put["segment_ids"].unbind()] == [[0, 0, 0, 1], [0], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    "options", [["+algo=gspo"], ["+algo=espo", "+actor_rollout_ref.actor.policy_loss.grouping=token"]]
)
def test_nothing_is_sent_for_a_loss_that_wants_nothing(trainer: Any, options: list[str]) -> None:
    self, queue, batch = trainer
    self.config = compose("+backend=cpu", *options)
    PPOTrainer._compute_advantage(self, batch, {})
    assert set(queue.put) == {"advantages", "returns"}


def test_after_an_update_what_ran_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around a stand-in for the update itself, which needs workers."""

    class Base:
        config = compose("+backend=cpu", "+algo=espo")

        def _compute_advantage(self, batch: Any, metrics: dict) -> None: ...

        def _compute_metrics(self, batch: Any, metrics: dict, timing_raw: dict) -> None: ...

        def _update_actor(self, batch: Any, metrics: dict) -> str:
            metrics.update(reported)
            return "result"

    controller.bind(SimpleNamespace(PPOTrainer=Base, tq=None))  # type: ignore[arg-type]
    reported = {execution.CHECKSUM_METRIC: 1.0}
    with pytest.raises(execution.ExecutionMismatchError):
        Base()._update_actor(meta(1), {})
    reported = {}
    with pytest.raises(execution.ExecutionMismatchError, match="did not report"):
        Base()._update_actor(meta(1), {})


BYPASS = "algorithm.rollout_correction.bypass_mode=true"


def test_in_bypass_mode_the_entropies_are_those_of_the_rollout(trainer: Any) -> None:
    """Groups are cut from 3 1 2 9 4 0 (lengths 2, 3, 1): floor(0.8 * 6 + 0.5) = 5 tokens below, 9 above."""
    self, queue, batch = trainer
    self.config = compose("+backend=cpu", "+algo=espo", BYPASS)
    del queue.columns["entropy"]
    queue.columns["rollout_entropies"] = jagged([torch.tensor(row) for row in ([3.0, 1.0], [2.0, 9.0, 4.0], [0.0])])
    PPOTrainer._compute_advantage(self, batch, {})
    assert [row.tolist() for row in queue.put["group_ids"].unbind()] == [[0, 0], [0, 1, 0], [0]]


def test_the_chosen_source_is_used_where_both_are_there(trainer: Any) -> None:
    _, queue, batch = trainer
    queue.columns["rollout_entropies"] = jagged([torch.full((n,), 7.0) for n in (2, 3, 1)])
    for chosen, expected in (("actor", 1.0), ("rollout", 7.0)):
        config = compose("+backend=cpu", "+algo=espo", f"+algorithm.verl_ext.entropy_source={chosen}")
        assert fetch_context(queue, batch, {}, config).old_entropy[0, 0] == expected


def test_a_token_without_an_entropy_stops_the_run_where_the_rollout_is_the_source(trainer: Any) -> None:
    self, queue, batch = trainer
    queue.columns["rollout_entropies"] = jagged([torch.tensor(row) for row in ([3.0, 1.0], [2.0, NAN, 4.0], [0.0])])
    metrics: dict[str, Any] = {}
    PPOTrainer._compute_advantage(self, batch, metrics)  # only watched, and counted
    assert metrics["training/rollout_entropies_nonfinite"] == 1
    self.config = compose("+backend=cpu", "+algo=espo", BYPASS)
    with pytest.raises(MismatchError, match=r"1 of 6 tokens .*u_1_0"):
        PPOTrainer._compute_advantage(self, batch, {})


def test_a_limit_stops_the_run_before_the_batch_is_trained_on(trainer: Any) -> None:
    self, queue, batch = trainer
    queue.columns["rollout_entropies"] = jagged([torch.full((n,), 1.25) for n in (2, 3, 1)])
    self.config = compose("+backend=cpu", "+algo=espo", "+algorithm.verl_ext.max_entropy_difference=0.3")
    PPOTrainer._compute_advantage(self, batch, {})
    self.config = compose("+backend=cpu", "+algo=espo", "+algorithm.verl_ext.max_entropy_difference=0.2")
    queue.put.clear()
    with pytest.raises(MismatchError, match=r"max_entropy_difference=0\.2 is exceeded"):
        PPOTrainer._compute_advantage(self, batch, {})
    assert not queue.put


def test_the_copy_of_log_probs_in_bypass_mode_is_not_timed_as_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        config = compose("+backend=cpu", "+algo=espo")

        def _compute_advantage(self, batch: Any, metrics: dict) -> None: ...

        def _update_actor(self, batch: Any, metrics: dict) -> None: ...

        def _compute_metrics(self, batch: Any, metrics: dict, timing_raw: dict, step: int, epoch: int) -> dict:
            return timing_raw

    controller.bind(SimpleNamespace(PPOTrainer=Base, tq=None))  # type: ignore[arg-type]
    assert Base()._compute_metrics(None, {}, {"old_log_prob": 1.0}, 1, 1) == {"old_log_prob": 1.0}
    Base.config = compose("+backend=cpu", "+algo=espo", BYPASS)
    assert Base()._compute_metrics(None, {}, {"old_log_prob": 1.0}, 1, 1) == {"copy_rollout_log_probs": 1.0}


# --- contracts


@pytest.mark.parametrize("name", ["_compute_advantage", "_update_actor", "_compute_metrics"])
def test_contract_every_trainer_inherits_the_bound_methods(name: str) -> None:
    bound = vars(PPOTrainer)[name]
    assert "verl_ext" in bound.__code__.co_filename
    parameters = list(inspect.signature(inspect.unwrap(bound)).parameters)
    assert parameters[:3] == ["self", "batch", "metrics"]
    assert parameters[3:] == (["timing_raw", "global_steps", "epoch"] if name == "_compute_metrics" else [])
    assert "verl_ext" not in inspect.unwrap(bound).__code__.co_filename
    for trainer_class in (PPOTrainerSync, PPOTrainerColocateAsync, PPOTrainerSeparateAsync):
        assert getattr(trainer_class, name) is bound, trainer_class


def test_contract_the_step_calls_both_methods_with_the_metrics() -> None:
    source = inspect.getsource(PPOTrainer._step_once)
    for call in ("self._compute_advantage(batch, metrics", "self._update_actor(batch, metrics"):
        assert call in source, call


def test_contract_verl_fetches_no_entropy_for_an_estimator() -> None:
    source = inspect.getsource(inspect.unwrap(PPOTrainer._compute_advantage))
    fields = source.split("fields = [")[1].split("]")[0]
    assert "entropy" not in fields
    assert "tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)" in source

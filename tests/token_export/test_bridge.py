"""The export through verl's own `ppo_loss`, worker and controller, on the CPU and without Ray."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import NonTensorStack
from verl.trainer.distillation import losses as distillation
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from verl.trainer.ppo.v1 import PPOTrainer, trainer_base
from verl.utils import tensordict_utils as tu
from verl.workers import engine_workers

from tests.bridge.micro_batches import actor, jagged, micro_batch
from tests.bridge.test_controller import ESPO, Queue, meta
from tests.token_export.worker import Engine, Worker, batch, train
from verl_ext import batch_file, current_context
from verl_ext.bridge import token_export
from verl_ext.config import ESPOLossConfig
from verl_ext.run.token_export.part import Part, Request
from verl_ext.toy.models import build_tokenizer

# Losses of verl's and ours that need no more than the batch has.
LOSSES = ("vanilla", "gspo", "clip_cov", "kl_cov", "cispo", "espo", "dcpo", "grpo_s", "draws")


def request(folder: Path, max_rows: int | None = None) -> Request:
    return Request(str(folder), step=4, update=0, max_rows=max_rows, run="project/run")


def configured(loss: str, **changes: Any) -> Any:
    """verl's actor configuration; verl freezes it."""
    config = actor(loss)
    modes = {"kl_cov": "token-mean", "clip_cov": "token-mean"}
    changes = {"loss_agg_mode": modes.get(loss, config.loss_agg_mode), **changes}
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    return config


@pytest.fixture(autouse=True)
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered loss that leaves out tokens at random, as Clip-Cov does where it finds any to leave out."""

    def loss(log_prob: torch.Tensor, response_mask: torch.Tensor, **_: Any) -> tuple[torch.Tensor, dict]:
        kept = response_mask & (torch.rand(log_prob.shape) < 0.5)
        return -(log_prob.exp() * kept).sum(), {"kept": float(kept.sum())}

    monkeypatch.setitem(POLICY_LOSS_REGISTRY, "draws", loss)


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[Any]:
    """Run a call with an export under way, and return its result and the part."""

    def call(function: Any, data: Any, max_rows: int | None = None) -> tuple[Any, Part]:
        if token_export.KEY not in data.keys():
            data[token_export.KEY] = NonTensorStack(*(f"u{row}_0_0" for row in range(len(data))))
        part = Part(request(tmp_path, max_rows), 0, data[token_export.KEY])
        part.mini_batch = 0
        token = token_export._part.set(part)
        try:
            return function(), part
        finally:
            token_export._part.reset(token)

    return call


def loss_and_gradient(config: Any, output: dict, data: Any) -> tuple[Any, torch.Tensor, dict]:
    loss, metrics = engine_workers.ppo_loss(config, output, data)
    (gradient,) = torch.autograd.grad(loss, output["log_probs"])
    return loss.detach(), gradient.values(), {name: getattr(m, "values", m) for name, m in metrics.items()}


# --- one micro-batch


def test_a_batch_worked_out_by_hand(exported: Any) -> None:
    """PPO with a range of 0.2 over three tokens of a mini-batch of 4, old log-probs ln 0.5.

    Row 0, A = 1: r = 1.5 is clipped high, r = 1.1 weighs 1.1 / 4 = 0.275. Row 1, A = -1: r = 0.5 is clipped low.
    """
    half, ratios = np.log(0.5), [[1.5, 1.1], [0.5]]
    data, _ = micro_batch(
        [2, 1],
        old_log_probs=[torch.full((n,), half) for n in (2, 1)],
        advantages=[torch.ones(2), -torch.ones(1)],
        rm_scores=[torch.tensor([0.0, 0.75]), torch.tensor([-0.5])],
        returns=[torch.ones(2), torch.ones(1)],
    )
    tu.assign_non_tensor(data, batch_num_tokens=4)
    # The output at a position is about the token after it: two of the prompt, the first of them is not read.
    rows = [torch.tensor([-9.0, *(np.log(0.5 * np.array(own))), -9.0]).float() for own in ratios]
    output = {"log_probs": jagged(rows).detach().requires_grad_(), "entropy": jagged([row + 10 for row in rows])}
    config = configured("vanilla", loss_agg_mode="token-mean")
    _, part = exported(lambda: engine_workers.ppo_loss(config, output, data), data)
    found = part.columns()
    expected = {
        "loss_weight": [[0, 0.275], [0]],
        "ratio": ratios,
        "clipped_high": [[1, 0], [0]],
        "clipped_low": [[0, 0], [1]],
        "log_probs": [[np.log(0.75), np.log(0.55)], [np.log(0.25)]],
        "current_entropy": [[10 + np.log(0.75), 10 + np.log(0.55)], [10 + np.log(0.25)]],
        "old_log_probs": [[half, half], [half]],
        "response_mask": [[1, 1], [1]],
        "responses": [[10, 10], [10]],
        "score": [0.75, -0.5],
        "key": ["u0_0_0", "u1_0_0"],
        "uid": ["u0", "u1"],
    }
    for name, values in expected.items():
        for got, wanted in zip(found[name], values, strict=True):
            assert got == pytest.approx(wanted, abs=1e-6) if not isinstance(wanted, str) else got == wanted, name
    assert not {"lower", "upper", "values", "segment_ids", "tokens"} & found.keys()
    assert part.about["normalisers"] == {
        "dp_size": 1,
        "batch_num_tokens": [4],
        "global_batch_size": 2,
        "loss_scale_factor": None,
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_gradient_metrics_and_random_numbers_are_those_without_an_export(loss: str, exported: Any) -> None:
    results = []
    for on in (False, True):
        torch.manual_seed(5)
        data, output = micro_batch([3, 5, 2], seed=3)
        config = configured(loss)

        def call(config=config, output=output, data=data):
            return loss_and_gradient(config, output, data), torch.rand(3)

        results.append(exported(call, data)[0] if on else call())
    ((value, gradient, metrics), drawn), ((other, other_gradient, other_metrics), other_drawn) = results
    assert torch.equal(value, other)
    assert torch.equal(gradient, other_gradient)
    assert repr(metrics) == repr(other_metrics)
    assert torch.equal(drawn, other_drawn)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_weights_are_the_gradient_that_verl_propagates(loss: str, exported: Any) -> None:
    """For a change d of the log-probs: sum of loss_weight * d = - dL/d(log_probs) . d, tokens of the prompt have none.

    Also for a loss that draws the tokens that it leaves out: the second evaluation draws the same ones.
    """
    torch.manual_seed(5)
    data, output = micro_batch([3, 5, 2], seed=3)
    (_, gradient, _), part = exported(lambda: loss_and_gradient(configured(loss), output, data), data)
    direction = torch.sin(torch.arange(float(len(gradient))))
    starts = torch.tensor([0, 5, 12]) + 1  # of each row's responses in the output: prompts of two tokens, shifted
    columns, total = part.columns(), 0.0
    for row, length in enumerate((3, 5, 2)):
        own = slice(int(starts[row]), int(starts[row]) + length)
        np.testing.assert_allclose(columns["loss_weight"][row], -gradient[own], rtol=1e-6, atol=1e-9)
        total += float((torch.from_numpy(columns["loss_weight"][row]) * direction[own]).sum())
    assert total == pytest.approx(-float(gradient @ direction), rel=1e-5, abs=1e-8)


def test_the_loss_is_given_the_same_arguments_and_context_again(exported: Any) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def probe(**arguments: Any) -> tuple[torch.Tensor, dict]:
        calls.append((current_context(), arguments))
        return (arguments["log_prob"] * arguments["response_mask"]).sum(), {}

    POLICY_LOSS_REGISTRY["probe"] = probe
    try:
        weights = [torch.rand(n) for n in (3, 2)]
        data, output = micro_batch([3, 2], rollout_is_weights=weights, ref_log_prob=weights)
        config = configured("probe")
        exported(lambda: engine_workers.ppo_loss(config, output, data), data)
    finally:
        del POLICY_LOSS_REGISTRY["probe"]
    (context, first), (again, second) = calls
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value is second[name]
        assert same or value == second[name], name
    for name in ("old_entropy", "ref_log_prob", "old_log_prob"):
        assert torch.equal(getattr(context, name), getattr(again, name))
    assert second["log_prob"].is_leaf
    assert not first["log_prob"].is_leaf


def test_our_losses_have_bounds(exported: Any) -> None:
    data, output = micro_batch([3, 5, 2])
    _, part = exported(lambda: engine_workers.ppo_loss(actor("espo"), output, data), data)
    columns = part.columns()
    for ratio, lower, upper in zip(*(columns[name] for name in ("ratio", "lower", "upper")), strict=True):
        assert len(ratio) == len(lower) == len(upper)
        assert (lower <= upper).all()
        assert (ratio > 0).all()
    assert part.about["loss"] == "espo"
    assert part.about["hyper_parameters"] == {
        **ESPOLossConfig().resolved(),
        "clip_ratio_low": 0.2,
        "clip_ratio_high": 0.2,
        "loss_agg_mode": "seq-mean-token-mean",
    }
    assert part.about["vocab_size"] == 258
    assert part.about["made_with"]["verl"] == "0.9.1"


def test_padding_and_rows_beyond_the_limit_are_left_out(exported: Any) -> None:
    data, output = micro_batch(
        [3, 1, 2, 2], response_mask=[torch.ones(3), torch.zeros(1), torch.ones(2), torch.ones(2)]
    )
    data[token_export.KEY] = NonTensorStack("a_0_0", "", "b_0_0", "b_1_0")
    _, part = exported(lambda: engine_workers.ppo_loss(actor("espo"), output, data), data)
    assert part.columns()["key"] == ["a_0_0", "b_0_0", "b_1_0"]
    _, part = exported(lambda: engine_workers.ppo_loss(actor("espo"), output, data), data, max_rows=1)
    assert len(part) == 1


def test_a_field_of_another_length_than_the_response_is_left_out(exported: Any) -> None:
    """`log_probs` of verl's batch is of the prompt as well, and is never taken for that of the policy."""
    rows = [torch.zeros(2 + n) for n in (3, 2)]
    data, output = micro_batch([3, 2], values=rows, log_probs=rows)
    _, part = exported(lambda: engine_workers.ppo_loss(actor("espo"), output, data), data)
    columns = part.columns()
    assert "values" not in columns
    assert columns["log_probs"][0] == pytest.approx(output["log_probs"].unbind()[0][1:4].tolist())


# --- a worker's step


RESPONSES = [[3, 7, 5], [0, 1], [7, 7, 7, 2], [4], [6, 5], [2, 2, 1]]
REWARDS = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0]


def off_policy(name: str) -> Any:
    config = configured(name)
    object.__setattr__(config.model_config, "tokenizer", build_tokenizer())
    return config


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_step_of_three_mini_batches_of_two_micro_batches(tmp_path: Path, epochs: int) -> None:
    engine = Engine(micro_batches=2)
    train(Worker(engine, off_policy("espo"), rank=3), batch(RESPONSES, REWARDS), 2, request(tmp_path), epochs)
    found = batch_file.read_all(tmp_path / "step-00004")
    assert [path.name for path in (tmp_path / "step-00004").iterdir()] == ["rank-00003.parquet"]
    assert (found.step, found.about["run"], len(found)) == (4, "project/run", 6 * epochs)
    columns = found.columns
    assert columns["mini_batch"] == sorted([*range(3 * epochs)] * 2)
    assert columns["key"] == epochs * [f"u{row // 2}_{row % 2}_0" for row in range(6)]
    assert set(columns["rank"]) == {3}
    assert not any(columns["is_padding"])
    assert columns["score"] == epochs * REWARDS
    assert columns["ground_truth"] == epochs * list("012345")
    assert set(columns["data_source"]) == {"sums"}
    assert set(columns["reward_extra_info"]) == {'{"outcome": "wrong"}'}
    assert found.about["normalisers"]["batch_num_tokens"] == epochs * [5, 5, 5]
    for row, mini_batch in enumerate(columns["mini_batch"]):
        tokens = RESPONSES[row % 6]
        assert columns["responses"][row].tolist() == tokens
        assert [*map(len, columns["tokens"][row])] == [1] * len(tokens)
        # Of the policy after the updates so far, and not of an old one.
        expected = engine.policies[mini_batch][tokens]
        np.testing.assert_allclose(columns["log_probs"][row], expected, rtol=1e-6)
    assert not torch.equal(engine.policies[0], engine.policies[1])


def test_the_export_changes_no_update(tmp_path: Path) -> None:
    finals = []
    for wanted in (None, request(tmp_path)):
        engine = Engine(micro_batches=2)
        output = train(Worker(engine, off_policy("espo")), batch(RESPONSES, REWARDS), 2, wanted)
        finals.append((engine.theta.detach().clone(), engine.losses, tu.get(output, "metrics")))
    (theta, losses, metrics), (other, other_losses, other_metrics) = finals
    assert torch.equal(theta, other)
    assert losses == other_losses
    assert metrics == other_metrics
    assert len(list(tmp_path.rglob("*.parquet"))) == 1  # of the second run


def test_a_rank_that_shares_its_rows_with_another_writes_nothing(tmp_path: Path) -> None:
    train(Worker(Engine(2, writes=False), off_policy("espo")), batch(RESPONSES, REWARDS), 2, request(tmp_path))
    assert not list(tmp_path.iterdir())


def test_nothing_is_evaluated_where_no_export_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_export, "add", None)
    monkeypatch.setattr(token_export, "RandomState", None)
    train(Worker(Engine(2), off_policy("espo")), batch(RESPONSES, REWARDS), 2, None)
    with pytest.raises(TypeError):
        train(Worker(Engine(2), off_policy("espo")), batch(RESPONSES, REWARDS), 2, request(tmp_path))
    assert token_export._part.get() is None  # an update that fails ends the export
    assert not list(tmp_path.iterdir())


# --- the controller


class Trainer:
    """What `bind` uses of `PPOTrainer`."""

    def __init__(self, *options: str, step: int = 4) -> None:
        stock = OmegaConf.create(OmegaConf.to_container(ESPO))
        self.config = OmegaConf.merge(stock, OmegaConf.from_dotlist([*options]))
        self.global_steps, self.local_trigger_step = step, 0
        self.sent: list[dict[str, Any]] = []

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        self.sent.append({"extra": dict(batch.extra_info), "fields": batch.fields})
        return batch


@pytest.fixture
def update() -> Any:
    def run(trainer: Trainer, batch: Any) -> Queue:
        queue = Queue()

        class Bound(Trainer): ...

        token_export.bind(SimpleNamespace(PPOTrainer=Bound, tq=queue))  # type: ignore[arg-type]
        assert Bound._update_actor(trainer, batch, {}) is batch
        return queue

    return run


def test_without_the_setting_nothing_is_sent(update: Any) -> None:
    trainer = Trainer()
    assert not update(trainer, meta(3)).put
    assert trainer.sent == [{"extra": {}, "fields": None}]


@pytest.mark.parametrize(("step", "asked"), [(1, False), (2, True), (3, False), (4, True)])
def test_every_second_step_asks_the_workers(update: Any, step: int, asked: bool) -> None:
    trainer = Trainer("verl_ext.export.every=2", step=step)
    assert bool(update(trainer, meta(3)).put) == asked
    assert (token_export.REQUEST in trainer.sent[0]["extra"]) == asked


def test_the_workers_are_sent_the_keys_and_where_to_write(update: Any, tmp_path: Path) -> None:
    trainer = Trainer(
        "verl_ext.export.every=1",
        "verl_ext.export.max_rows=7",
        f"trainer.default_local_dir={tmp_path}",
        "trainer.project_name=sums",
        "trainer.experiment_name=first",
    )
    trainer.local_trigger_step = 2
    rows = meta(3, padding=(1,))
    rows.fields = ["responses"]
    queue = update(trainer, rows)
    assert queue.put[token_export.KEY].tolist() == ["u_0_0", "", "u_2_0"]
    ((sent),) = trainer.sent
    assert sent["fields"] == ["responses", token_export.KEY]  # a batch that lists its fields sends no other
    assert Request.read(sent["extra"][token_export.REQUEST]) == Request(
        f"{tmp_path}/token_export", 4, 2, 7, "sums/first"
    )
    assert token_export.REQUEST not in rows.extra_info  # what follows the update is not to export again
    again = Trainer("verl_ext.export.every=1", f"verl_ext.export.dir={tmp_path}/there")
    update(again, rows)
    assert again.sent[0]["fields"] == ["responses", token_export.KEY]
    assert Request.read(again.sent[0]["extra"][token_export.REQUEST]).folder == f"{tmp_path}/there"


# --- contracts


def test_contract_what_is_wrapped_is_verls() -> None:
    assert "update_actor(batch)" in inspect.getsource(inspect.unwrap(PPOTrainer._update_actor))
    train_mini_batch = inspect.getsource(inspect.unwrap(engine_workers.TrainingWorker.train_mini_batch))
    assert "self.train_batch(mini_batch_td)" in train_mini_batch
    assert "self.actor.train_mini_batch(data=data)" in inspect.getsource(engine_workers.ActorRolloutRefWorker)
    assert "self.local_trigger_step = trigger_idx" in inspect.getsource(PPOTrainer)
    assert trainer_base.tq.kv_batch_put


def test_the_wraps_are_in_place_and_verl_still_dispatches_the_calls() -> None:
    from verl.single_controller.base.decorator import MAGIC_ATTR

    for name in ("train_mini_batch", "train_batch"):
        method = getattr(engine_workers.TrainingWorker, name)
        assert method.__code__.co_filename == token_export.__file__
        assert hasattr(method, MAGIC_ATTR)
    for module in (engine_workers, distillation):
        assert module.ppo_loss.__code__.co_filename == token_export.__file__
    chain, files = PPOTrainer._update_actor, []
    while chain is not None:
        files.append(Path(chain.__code__.co_filename).name)
        chain = getattr(chain, "__wrapped__", None)
    assert files.index("guards.py") < files.index("token_export.py") < files.index("controller.py")

"""The token export around verl's updates: the controller asks, each training worker writes what its losses saw.

The controller puts the rows' keys into TransferQueue and the request beside the batch, at the steps to export and at no
other. A worker then evaluates the loss of each micro-batch a second time, on log-probs outside the model's graph.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from verl_ext import batch_file
from verl_ext.bridge.controller import as_list
from verl_ext.bridge.guards_batch import verdicts_of
from verl_ext.bridge.policy_loss import build_context, vocab_size
from verl_ext.context import token_context
from verl_ext.run import settings as run_settings
from verl_ext.run.token_export.evaluation import RandomState, drawing_again, evaluate
from verl_ext.run.token_export.part import Part, Request

if TYPE_CHECKING:
    import torch

SECTION = "export"
# What the controller says beside the batch: a request as text.
REQUEST = "verl_ext_token_export"
# Field of the batch: the key of each row, empty for padding.
KEY = "verl_ext_key"
MADE_WITH = ("verl-ext", "verl", "torch")
# The part that this process is gathering.
_part: ContextVar[Part | None] = ContextVar("verl_ext_token_export_part", default=None)


# --- the controller


def bind(trainer_base: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.v1.trainer_base`` has been imported."""
    cls = trainer_base.PPOTrainer
    update = cls._update_actor

    @functools.wraps(update)
    def _update_actor(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        request = request_of(self)
        if request is None:
            return update(self, batch, metrics)
        send_keys(trainer_base.tq, batch)
        batch.extra_info[REQUEST] = request.text()
        try:
            return update(self, batch, metrics)
        finally:
            batch.extra_info.pop(REQUEST, None)

    cls._update_actor = _update_actor


def request_of(trainer: Any) -> Request | None:
    """What to export of the trainer's present step; None for nothing."""
    settings, config = run_settings.section(trainer.config, SECTION), trainer.config.trainer
    if settings.every == 0 or trainer.global_steps % settings.every:
        return None
    return Request(
        folder=os.path.abspath(settings.dir or os.path.join(config.default_local_dir, "token_export")),
        step=trainer.global_steps,
        update=trainer.local_trigger_step,
        max_rows=settings.max_rows,
        run=f"{config.project_name}/{config.experiment_name}",
    )


def send_keys(tq: Any, batch: Any) -> None:
    """Put the rows' keys into TransferQueue, and have them sent to the workers with the batch."""
    from tensordict import NonTensorStack, TensorDict

    keys = ["" if tag.get("is_padding", False) else key for key, tag in zip(batch.keys, batch.tags, strict=True)]
    fields = TensorDict({KEY: NonTensorStack(*keys)}, batch_size=len(keys))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    if batch.fields is not None and KEY not in batch.fields:
        batch.fields = [*batch.fields, KEY]


# --- the workers


def bind_workers(engine_workers: ModuleType) -> None:
    """Called when ``verl.workers.engine_workers`` has been imported, before its classes are made Ray actors."""
    cls = engine_workers.TrainingWorker
    train, update = cls.train_mini_batch, cls.train_batch

    @functools.wraps(train)
    def train_mini_batch(self: Any, data: Any) -> Any:
        with exporting(self, data):
            return train(self, data)

    @functools.wraps(update)
    def train_batch(self: Any, data: Any) -> Any:
        part = _part.get()
        if part is not None:
            part.mini_batch += 1
        return update(self, data)

    cls.train_mini_batch, cls.train_batch = train_mini_batch, train_batch
    bind_loss(engine_workers)


def bind_loss(module: ModuleType) -> None:
    """Wrap `module.ppo_loss`, which has its token context already; the module is one that hands it to an engine."""
    original = module.ppo_loss

    @functools.wraps(original)
    def ppo_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None, **kwargs: Any) -> Any:
        part = _part.get()
        if part is None:
            return original(config, model_output, data, dp_group, **kwargs)
        device = data["responses"].device
        before = RandomState(device)
        result = original(config, model_output, data, dp_group, **kwargs)
        with drawing_again(before, device):
            add(part, config, model_output, data)
        return result

    module.ppo_loss = ppo_loss  # type: ignore[attr-defined]


@contextmanager
def exporting(worker: Any, data: Any) -> Iterator[None]:
    """Gather and write what the losses in the body see, if the batch says so and this rank is the one to report it.

    Ranks that share a model's rows (tensor, sequence or pipeline parallel) see the same tokens; one of them writes.
    """
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    # In a worker that is called by the controller itself, the critic's, the batch has not been fetched yet.
    text = tu.get(data, REQUEST) if isinstance(data, TensorDict) else None
    if text is None or not worker.engine.is_mp_src_rank_with_outputs():
        yield
        return
    part = Part(Request.read(text), worker.rank, as_list(data[KEY]))
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)
    part.write()


def add(part: Part, config: Any, model_output: Any, data: Any) -> None:
    """Take the rows of a micro-batch, as its loss saw them, into the part."""
    note(part, config, data)
    keys = as_list(data[KEY])
    chosen = [row for row, key in enumerate(keys) if key in part.chosen]
    if not chosen:
        return
    rows = rows_of_batch(data, keys)
    lengths = [len(row) for row in data["responses"].unbind()]
    for name, values in columns_of_loss(config, model_output, data).items():
        for row, numbers in enumerate(values.detach().float().cpu()):
            rows[row][name] = numbers[: lengths[row]].numpy()
    for row in chosen:
        part.add(rows[row])


def note(part: Part, config: Any, data: Any) -> None:
    """What the file's metadata say of the loss, and the normalisers of the mini-batch that is under way."""
    from verl_ext import plugin

    if not part.about:
        loss = config.policy_loss.get("loss_mode", "vanilla")
        part.tokenizer = getattr(config.get("model_config", None), "tokenizer", None)
        part.about = {
            "loss": loss,
            "hyper_parameters": plugin.resolved_hyper_parameters(loss, config),
            "loss_agg_mode": config.loss_agg_mode,
            "vocab_size": vocab_size(config),
            "made_with": {name: version(name) for name in MADE_WITH},
            "normalisers": {**config.global_batch_info, "batch_num_tokens": []},
        }
    tokens = part.about["normalisers"]["batch_num_tokens"]
    if len(tokens) == part.mini_batch:
        tokens.append(data["batch_num_tokens"])


def rows_of_batch(data: Any, keys: Sequence[str]) -> list[dict[str, Any]]:
    """What the batch says of each row; a row lacks a field that is not as long as its response."""
    lengths = [len(row) for row in data["responses"].unbind()]
    verdicts = verdicts_of(data, len(keys))
    rows: list[dict[str, Any]] = [
        {
            "key": key,
            "uid": key.split("_")[0],
            batch_file.PADDING: False,
            "reward_extra_info": json.dumps(verdict, default=str),
        }
        for key, verdict in zip(keys, verdicts, strict=True)
    ]
    if "data_source" in data.keys():
        for row, found in zip(rows, as_list(data["data_source"]), strict=True):
            row["data_source"] = str(found)
    if "reward_model" in data.keys():
        for row, found in zip(rows, as_list(data["reward_model"]), strict=True):
            row["ground_truth"] = str((found or {}).get("ground_truth", ""))
    for name in filter(data.keys().__contains__, batch_file.TOKEN_TYPES):
        for row, length, found in zip(rows, lengths, data[name].detach().cpu().unbind(), strict=True):
            if name == "prompts" or len(found) == length:
                row[name] = found.float().numpy() if found.is_floating_point() else found.numpy()
    for row in rows:
        if "rm_scores" in row:
            row["score"] = float(row["rm_scores"].sum())
    return rows


def columns_of_loss(config: Any, model_output: Any, data: Any) -> dict[str, torch.Tensor]:
    """What the configured loss makes of a micro-batch, and the policy's log-probs and entropies; [B, T] each."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    context, arguments = build_context(config, model_output, data), loss_arguments(config, model_output, data)
    with token_context(context):
        found = evaluate(get_policy_loss_fn(config.policy_loss.get("loss_mode", "vanilla")), arguments)
    found["log_probs"] = arguments["log_prob"]
    if context.entropy is not None:
        found["current_entropy"] = context.entropy
    return found


def loss_arguments(config: Any, model_output: Any, data: Any) -> dict[str, Any]:
    """What verl's `ppo_loss` calls a registered loss with; it has filled `config.global_batch_info` before."""
    from verl.workers.utils.padding import no_padding_2_padding

    wanted = [name for name in ("old_log_probs", "advantages", "response_mask", "rollout_is_weights") if name in data]
    columns = data.select(*wanted).to_padded_tensor()
    return {
        "old_log_prob": columns["old_log_probs"],
        "log_prob": no_padding_2_padding(model_output["log_probs"], data).detach(),
        "advantages": columns["advantages"],
        "response_mask": columns["response_mask"].bool(),
        "loss_agg_mode": config.loss_agg_mode,
        "config": config,
        "rollout_is_weights": columns.get("rollout_is_weights", None),
    }

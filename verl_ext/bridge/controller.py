"""On verl's controller: the token context around the advantage estimators, and what is computed for the losses.

Some losses need something of the whole row that depends on the rollout alone (entropy groups, segments). It is made
once here and sent to the workers as a field, instead of at every update.

Bound to ``PPOTrainer``, from which the sync, colocate_async and separate_async trainers inherit.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from verl_ext.bridge import execution
from verl_ext.bridge.fields import OLD_ENTROPY, SOURCE
from verl_ext.context import TokenContext, token_context
from verl_ext.rollout import mismatch, source

FIELDS = {"old_log_probs": "old_log_prob", "ref_log_prob": "ref_log_prob"}


def bind(trainer_base: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.v1.trainer_base`` has been imported."""
    cls = trainer_base.PPOTrainer
    compute, update, measure = cls._compute_advantage, cls._update_actor, cls._compute_metrics

    @functools.wraps(compute)
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        context = fetch_context(trainer_base.tq, batch, metrics, self.config)
        with token_context(context):
            batch = compute(self, batch, metrics)
        return send_prepared(trainer_base.tq, batch, context.old_entropy, self.config, self.tokenizer)

    @functools.wraps(update)
    def _update_actor(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        batch.extra_info[SOURCE] = source.resolve(self.config).provider
        result = update(self, batch, metrics)
        if execution.expected(self.config):
            execution.compare(metrics, self.config)
        return result

    @functools.wraps(measure)
    def _compute_metrics(self: Any, batch: Any, metrics: Any, timing_raw: dict[str, Any], *args: Any, **kw: Any) -> Any:
        if source.bypassed(self.config) and "old_log_prob" in timing_raw:
            # verl times the copy of the rollout's log-probs under the name of the forward pass that it replaces.
            timing_raw["copy_rollout_log_probs"] = timing_raw.pop("old_log_prob")
        return measure(self, batch, metrics, timing_raw, *args, **kw)

    cls._compute_advantage, cls._update_actor, cls._compute_metrics = (
        _compute_advantage,
        _update_actor,
        _compute_metrics,
    )


def fetch_context(tq: Any, batch: Any, metrics: dict[str, Any], config: Any) -> TokenContext:
    """Token data of every row of the batch, in the order of ``batch.keys``; adds metrics about it.

    Raises:
        MismatchError: rollout and actor differ by more than ``algorithm.verl_ext`` allows, or the entropies of the
            rollout are to be read and some are not finite.
    """
    entropies = OLD_ENTROPY[source.resolve(config).provider]
    wanted = [*FIELDS, *OLD_ENTROPY.values(), "rollout_log_probs", "response_mask", "extra_fields"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
    verdicts = [_verdict(row) for row in (as_list(data["extra_fields"]) if "extra_fields" in data.keys() else [])]
    real = [verdict for verdict, tag in zip(verdicts, batch.tags, strict=False) if not tag.get("is_padding", False)]
    metrics.update(outcome_shares(real))

    mask, compared = data["response_mask"].to_padded_tensor(0), mismatch.fields_of(data)
    if source.bypassed(config):
        # The old log-probs are a copy of the rollout's: their difference would be 0 and say nothing.
        compared.pop("old_log_probs", None)
    figures = mismatch.measure(compared, mask)
    metrics.update(figures)
    mismatch.enforce(figures, source.settings(config), compared, mask, batch.keys)

    found = {field: data[name].to_padded_tensor(0) for name, field in FIELDS.items() if name in data.keys()}
    if entropies in compared:
        found["old_entropy"] = compared[entropies]
        mismatch.refuse_unknown(compared[entropies], mask, batch.keys)
    return TokenContext(verified=verified_flags(verdicts), **found)


def send_prepared(tq: Any, batch: Any, old_entropy: Any, config: Any, tokenizer: Any) -> Any:
    """Compute the field that the configured loss wants from the controller, and put it into TransferQueue.

    After the advantages, because verl's rollout correction may take tokens out of the response mask until then. The
    returned batch must be the one handed on: fields put under an older one are not sent to the workers.

    Args:
        tq: TransferQueue.
        batch: rows of this step.
        old_entropy: [B, T] of the rows, nats, or None.
        config: the trainer's.
        tokenizer: of the trained model.

    Returns:
        The batch with the new field, or the same batch where the loss wants none.
    """
    from tensordict import TensorDict
    from verl.workers.utils.padding import response_to_nested

    from verl_ext import plugin

    policy_loss = config.actor_rollout_ref.actor.policy_loss
    method = plugin.POLICY_LOSSES.get(policy_loss.get("loss_mode", "vanilla"))
    if method is None or method.prepare is None or method.prepares is None:
        return batch
    wanted = ["responses", "response_mask"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
    values = method.prepare(
        plugin.PreparationData(
            responses=data["responses"].to_padded_tensor(0),
            response_mask=data["response_mask"].to_padded_tensor(0).bool(),
            old_entropy=old_entropy,
            tokenizer=tokenizer,
        ),
        **method.resolve(policy_loss),
    )
    if values is None:
        return batch
    fields = TensorDict({method.prepares: response_to_nested(values, data["response_mask"])}, batch_size=len(batch))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def as_list(column: Any) -> list[Any]:
    """A non-tensor column, one entry a row: TransferQueue hands out stacks or plain lists of them."""
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _verdict(row: Any) -> dict[str, Any]:
    return (row or {}).get("reward_extra_info") or {}


def verified_flags(verdicts: list[dict[str, Any]]) -> Any:
    """Boolean ``[B]``: whether the verifier could judge the row; None where it never says so.

    A row without the flag among rows that have it is one whose grading crashed: it counts as not judged.
    """
    import torch

    if not any("verified" in verdict for verdict in verdicts):
        return None
    return torch.tensor([bool(verdict.get("verified", False)) for verdict in verdicts])


def outcome_shares(verdicts: list[dict[str, Any]]) -> dict[str, float]:
    """Share of each verifier outcome (correct, wrong, unparsable, timeout, error) among the real rows."""
    counted = [str(verdict["outcome"]) for verdict in verdicts if "outcome" in verdict]
    if not counted:
        return {}
    from verl_ext.rewards.math import OUTCOMES

    return {f"reward/outcome/{name}": counted.count(name) / len(counted) for name in OUTCOMES}

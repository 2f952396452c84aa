"""What the guards read of a batch in TransferQueue: a part at a time to look at it, all of it to keep it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_ext import batch_file
from verl_ext.bridge.controller import as_list
from verl_ext.bridge.fields import OLD_ENTROPY
from verl_ext.rollout import source
from verl_ext.run.guards import no_signal, nonfinite, verifier
from verl_ext.run.guards.no_signal import Graded
from verl_ext.run.guards.nonfinite import Finding

# Rows fetched at once, so that the controller never holds all fields of a large batch.
ROWS = 1024
REWARDS = "rm_scores"
PLAIN = ("extra_fields", "data_source", "reward_model")


@dataclass(frozen=True)
class Inspection:
    """What was found in a batch.

    Attributes:
        findings: values that are not finite.
        entropy: mean over the tokens that count, nats; None where the batch has no entropies.
        judged: how its sessions came out.
        graded: what each row earned, padding left out.
    """

    findings: Sequence[Finding]
    entropy: float | None
    judged: verifier.Judged
    graded: Sequence[Graded]


def inspect(tq: Any, batch: Any, config: Any, expected: int) -> Inspection:
    """Look at every row of a batch.

    Args:
        tq: TransferQueue.
        batch: keys, tags and partition of the rows.
        config: the trainer's.
        expected: sessions that the step asked for.
    """
    entropies = OLD_ENTROPY[source.resolve(config).provider]
    names = list(dict.fromkeys([*nonfinite.FIELDS, entropies, batch_file.MASK]))
    findings: list[Finding] = []
    verdicts: list[Mapping[str, Any]] = []
    rewards: list[float] = []
    total, tokens = 0.0, 0
    for keys, data in _parts(tq, batch, [*names, "extra_fields"]):
        mask = padded(data[batch_file.MASK]).bool()
        fields = {name: padded(data[name])[:, : mask.shape[1]] for name in names if name in data.keys()}
        for name in nonfinite.FIELDS:
            if name in fields:
                findings += nonfinite.scan(name, fields[name], mask, keys)
        if entropies in fields:
            total += float(fields[entropies][mask].double().sum())
            tokens += int(mask.sum())
        verdicts += verdicts_of(data, len(keys))
        rewards += rewards_of(data)
    real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
    judged = verifier.judge([batch.keys[row] for row in real], [verdicts[row] for row in real], expected)
    earned = _grade(batch, rewards, verdicts)
    return Inspection(findings, total / tokens if tokens else None, judged, earned)


def graded(tq: Any, batch: Any) -> list[Graded]:
    """What each row of a batch earned, padding left out; of the tokens only their rewards are fetched."""
    rewards: list[float] = []
    verdicts: list[Mapping[str, Any]] = []
    for keys, data in _parts(tq, batch, [REWARDS, "extra_fields"]):
        rewards += rewards_of(data)
        verdicts += verdicts_of(data, len(keys))
    return _grade(batch, rewards, verdicts)


def _grade(batch: Any, rewards: Sequence[float], verdicts: Sequence[Mapping[str, Any]]) -> list[Graded]:
    """Nothing where the batch has no rewards."""
    rows = zip(batch.keys, batch.tags, rewards, verdicts, strict=True) if rewards else ()
    return [
        Graded(key, reward, no_signal.is_right(reward, verdict))
        for key, tag, reward, verdict in rows
        if not tag.get("is_padding", False)
    ]


def columns(tq: Any, batch: Any, tokenizer: Any, first: Sequence[str], limit: int) -> dict[str, list[Any]]:
    """The batch as `batch_file.write` wants it.

    Args:
        tq: TransferQueue.
        batch: keys, tags and partition of the rows.
        tokenizer: of the trained model, or None: there is no text then.
        first: keys of rows that must not be cut off; their groups come first.
        limit: number of rows.
    """
    concerned = {key.split("_")[0] for key in first}
    order = sorted(range(len(batch.keys)), key=lambda row: batch.keys[row].split("_")[0] not in concerned)[:limit]
    wanted = [*batch_file.TOKEN_TYPES, *PLAIN]
    keys = [batch.keys[row] for row in order]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=wanted)
    found: dict[str, list[Any]] = {
        "key": keys,
        "uid": [key.split("_")[0] for key in keys],
        batch_file.PADDING: [bool(batch.tags[row].get("is_padding", False)) for row in order],
    }
    for name in batch_file.TOKEN_TYPES:
        if name in data.keys():
            found[name] = [
                row.detach().float().numpy() if row.is_floating_point() else row.numpy() for row in data[name]
            ]
    for name in ("prompt", "response"):
        if tokenizer is not None and f"{name}s" in found:
            found[f"{name}_text"] = [tokenizer.decode(row) for row in found[f"{name}s"]]
    if "data_source" in data.keys():
        found["data_source"] = [str(source) for source in as_list(data["data_source"])]
    if "reward_model" in data.keys():
        found["ground_truth"] = [str((row or {}).get("ground_truth", "")) for row in as_list(data["reward_model"])]
    found["reward_extra_info"] = [json.dumps(verdict, default=str) for verdict in verdicts_of(data, len(keys))]
    return found


def padded(values: Any) -> Any:
    """Dense [B, T] of a field, 0 behind each row."""
    return values.to_padded_tensor(0) if values.is_nested else values


def rewards_of(data: Any) -> list[float]:
    """The sum of each row's token rewards; nothing where there are none."""
    return padded(data[REWARDS]).double().sum(-1).tolist() if REWARDS in data.keys() else []


def verdicts_of(data: Any, rows: int) -> list[Mapping[str, Any]]:
    """What the reward function returned for each row; empty where it returned nothing to keep."""
    if "extra_fields" not in data.keys():
        return [{} for _ in range(rows)]
    return [(row or {}).get("reward_extra_info") or {} for row in as_list(data["extra_fields"])]


def _parts(tq: Any, batch: Any, names: list[str]) -> Iterator[tuple[list[str], Any]]:
    for start in range(0, len(batch.keys), ROWS):
        keys = batch.keys[start : start + ROWS]
        yield keys, tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=names)

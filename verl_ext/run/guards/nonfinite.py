"""NaN and infinities in a batch, before it reaches a loss, and in what an update reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verl_ext.run.guards.incident import Incident
from verl_ext.run.guards.settings import GuardSettings

if TYPE_CHECKING:
    import torch

# Fields that a loss, an estimator or a correction reads, at the tokens that count.
AT_COUNTED_TOKENS = (
    "advantages",
    "returns",
    "values",
    "old_log_probs",
    "ref_log_prob",
    "rollout_is_weights",
    "rollout_log_probs",
    "entropy",
)
# Summed over the whole response, whatever its mask: the reward lies on the last token.
ANYWHERE = ("rm_scores", "token_level_rewards")
FIELDS = (*ANYWHERE, *AT_COUNTED_TOKENS)
# What verl reports of an update. It averages over mini-batches, so that one NaN among them is seen here.
REPORTED = (
    "actor/loss",
    "actor/pg_loss",
    "actor/kl_loss",
    "actor/entropy_loss",
    "actor/grad_norm",
    "critic/loss",
    "critic/vf_loss",
    "critic/grad_norm",
)
GRADIENTS = ("actor/grad_norm", "critic/grad_norm")
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """Values of one field that are not finite, in one row.

    Attributes:
        field: name of the field.
        row: key of the row.
        counted: number of them that count.
        masked: number of them at tokens that the mask takes out; these do not fire a guard.
        token: index of the first one.
        value: the first one.
    """

    field: str
    row: str
    counted: int
    masked: int
    token: int
    value: float


def scan(name: str, values: torch.Tensor, mask: torch.Tensor, rows: Sequence[str]) -> list[Finding]:
    """Every row of a field with a value that is not finite.

    Args:
        name: of the field, one of `FIELDS`.
        values: [B, T].
        mask: [B, T], the tokens that count.
        rows: key of each row.
    """
    import torch

    lost = ~values.isfinite()
    if not bool(lost.any()):
        return []
    counted = lost if name in ANYWHERE else lost & mask.bool()
    found = []
    for row in lost.any(-1).nonzero()[:, 0].tolist():
        inside = counted[row]
        token = int(torch.argmax((inside if bool(inside.any()) else lost[row]).int()))
        number = int(inside.sum())
        masked = int(lost[row].sum()) - number
        found.append(Finding(name, rows[row], number, masked, token, float(values[row, token])))
    return found


def explain(findings: Iterable[Finding]) -> str:
    """The findings that count, a line a field: how many values, in how many rows, and which."""
    lines = []
    by_field: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.counted:
            by_field.setdefault(finding.field, []).append(finding)
    for name, found in by_field.items():
        first = found[0]
        values, keys = sum(finding.counted for finding in found), [finding.row for finding in found]
        shown = ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
        lines.append(
            f"  - {name}: {values} {_plural(values, 'value')} in {len(keys)} {_plural(len(keys), 'row')} ({shown}); "
            f"the first is {first.value} at token {first.token} of {first.row}"
        )
    return "\n".join(lines)


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def reported(metrics: Mapping[str, Any], role: str, scaled: bool) -> dict[str, float]:
    """What an update reported that is not finite.

    Args:
        metrics: of the step so far.
        role: `actor` or `critic`, whose update it was.
        scaled: whether gradients are scaled dynamically (float16): an overflow is then how the scale is found, and a
            gradient norm that is not finite is no fault.
    """
    watched = [name for name in REPORTED if name.startswith(f"{role}/") and not (scaled and name in GRADIENTS)]
    return {name: float(metrics[name]) for name in watched if name in metrics and not math.isfinite(metrics[name])}


def in_batch(findings: Sequence[Finding], settings: GuardSettings, step: int, skipped: int) -> Incident | None:
    """The incident of a batch in which a value that counts is not finite; None where there is none.

    Args:
        findings: of the whole batch.
        settings: of the guards.
        step: the training step.
        skipped: updates that the run has skipped before.
    """
    counted = [finding for finding in findings if finding.counted]
    if not counted:
        return None
    message = f"values that are not finite are about to reach the loss:\n{explain(counted)}"
    rows = list(dict.fromkeys(finding.row for finding in counted))
    return _incident(message, {"findings": [vars(finding) for finding in counted]}, rows, settings, step, skipped)


def in_update(
    lost: Mapping[str, float], findings: Sequence[Finding], settings: GuardSettings, step: int, skipped: int
) -> Incident | None:
    """The incident of an update that reported something that is not finite; None where it did not.

    Args:
        lost: what `reported` returned.
        findings: of the batch, all of them at tokens that the mask takes out.
        settings, step, skipped: as for `in_batch`.
    """
    if not lost:
        return None
    names = ", ".join(f"{name}={value}" for name, value in lost.items())
    message = f"the update reported {names}, although every value of the batch that counts is finite"
    masked: Counter[str] = Counter()
    for finding in findings:
        masked[finding.field] += finding.masked
    if masked:
        listed = ", ".join(f"{number} of {name}" for name, number in masked.items())
        message += f"\nAt tokens that the response mask takes out there are {listed}: a loss may still read them"
    return _incident(message, {**lost, "masked": dict(masked)}, [], settings, step, skipped)


def _incident(
    message: str, figures: Mapping[str, Any], rows: Sequence[str], settings: GuardSettings, step: int, skipped: int
) -> Incident:
    action, most = settings.nonfinite_action, settings.nonfinite_max_skipped
    if action == "skip" and skipped >= most:
        action = "stop"
        message += f"\n{skipped} updates have been skipped already, which is all that nonfinite_max_skipped allows"
    limits = {"nonfinite_action": settings.nonfinite_action, "nonfinite_max_skipped": most}
    return Incident("nonfinite", step, action, message, {**figures, "skipped": skipped}, limits, rows)

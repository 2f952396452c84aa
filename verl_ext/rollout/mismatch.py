"""The watch on the difference between rollout engine and actor, from the first step on.

Both compute the same numbers with different kernels, precisions and, after a weight sync that went wrong, different
weights. A difference that grows is what ends long runs; it is better seen, and stopped, at its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Key of algorithm.verl_ext -> (what is compared, which figure of it).
LIMITS = {
    "max_log_prob_difference": ("log_probs", "max"),
    "mean_log_prob_difference": ("log_probs", "mean"),
    "max_entropy_difference": ("entropy", "max"),
    "mean_entropy_difference": ("entropy", "mean"),
}
# What is compared -> (field of the rollout, field of the actor).
PAIRS = {"log_probs": ("rollout_log_probs", "old_log_probs"), "entropy": ("rollout_entropies", "entropy")}


class MismatchError(RuntimeError):
    """Rollout engine and actor differ by more than the configuration allows, or numbers are not finite."""


def measure(fields: Mapping[str, torch.Tensor], mask: torch.Tensor) -> dict[str, float]:
    """Figures of every pair that is there.

    Args:
        fields: name -> [B, T] float, of the batch.
        mask: [B, T], the tokens that count.

    Returns:
        For each pair `training/rollout_<what>_diff_max` and `_mean`, nats, over the tokens at which both are finite,
        and for each field `training/<field>_nonfinite`, the number of tokens at which it is not.
    """
    found: dict[str, float] = {}
    valid = mask.bool()
    for what, names in PAIRS.items():
        there = {name: fields[name][valid].float() for name in names if name in fields}
        for name, values in there.items():
            found[f"training/{name}_nonfinite"] = float((~values.isfinite()).sum())
        if len(there) == 2:
            rollout, actor = there.values()
            difference = (rollout - actor).abs()
            difference = difference[difference.isfinite()]
            counted = difference.numel() > 0
            found[f"training/rollout_{what}_diff_max"] = float(difference.max()) if counted else 0.0
            found[f"training/rollout_{what}_diff_mean"] = float(difference.mean()) if counted else 0.0
    return found


def enforce(
    figures: Mapping[str, float],
    limits: Mapping[str, float | None],
    fields: Mapping[str, torch.Tensor],
    mask: torch.Tensor,
    rows: Sequence[str],
) -> None:
    """Stop the run where a figure exceeds its limit.

    Args:
        figures: what `measure` returned.
        limits: key of `LIMITS` -> largest allowed value, or None.
        fields: as for `measure`; named in the error are the row and the token that differ most.
        mask: as for `measure`.
        rows: key of each row.

    Raises:
        MismatchError: with every limit exceeded, the worst token, and what usually is the cause.
    """
    faults = []
    for key, (what, figure) in LIMITS.items():
        limit, found = limits.get(key), figures.get(f"training/rollout_{what}_diff_{figure}")
        if limit is None or found is None:
            continue
        lost = {name: int(figures[f"training/{name}_nonfinite"]) for name in PAIRS[what]}
        faults += [f"{key}: {count} values of {name} are not finite" for name, count in lost.items() if count]
        if found > limit:
            faults.append(f"{key}={limit:g} is exceeded: {figure} |difference| of {what} is {found:.4g} nats")
            faults.append(f"  {worst(what, fields, mask, rows)}")
    if faults:
        raise MismatchError(
            "rollout engine and actor disagree; the run is stopped before this batch is trained on:\n"
            + "\n".join(f"  - {fault}" for fault in dict.fromkeys(faults))
            + "\nUsual causes: weights that did not arrive in the engine, different precision (rollout.dtype, "
            "fsdp_config.model_dtype), a temperature or logits processor that only one side applies, a mixture of "
            f"experts routed differently. The limits are keys of algorithm.verl_ext: {', '.join(LIMITS)}."
        )


def worst(what: str, fields: Mapping[str, torch.Tensor], mask: torch.Tensor, rows: Sequence[str]) -> str:
    """The token at which the two differ most, for a person to look at."""
    rollout, actor = (fields[name].float() for name in PAIRS[what])
    difference = (rollout - actor).abs().masked_fill(~mask.bool(), -1).nan_to_num(nan=-1, posinf=-1)
    row, token = divmod(int(difference.argmax()), difference.shape[1])
    return (
        f"worst: row {rows[row]}, token {token}: rollout {float(rollout[row, token]):.6g}, "
        f"actor {float(actor[row, token]):.6g}"
    )


def refuse_unknown(entropies: torch.Tensor, mask: torch.Tensor, rows: Sequence[str]) -> None:
    """The entropies that methods are going to read must be finite, and not far below 0, at every token that counts.

    Raises:
        MismatchError: with the number of tokens and the first rows concerned.
    """
    from verl_ext.grouping import LEAST_ENTROPY

    lost = mask.bool() & ~(entropies.isfinite() & (entropies >= LEAST_ENTROPY))
    if not bool(lost.any()):
        return
    concerned = [rows[row] for row in lost.any(-1).nonzero()[:, 0].tolist()]
    shown = ", ".join(concerned[:5]) + (" ..." if len(concerned) > 5 else "")
    raise MismatchError(
        f"{int(lost.sum())} of {int(mask.bool().sum())} tokens came back from the rollout without a finite entropy, or "
        f"with one below {LEAST_ENTROPY:g} nats, in {len(concerned)} rows ({shown}). Either the model produced NaN "
        "there, or an agent loop rebuilt the list of log-probs (their entropies ride on its elements: slice and join "
        "it, do not convert it), or made tokens of its own without setting their response_mask to 0."
    )


def fields_of(data: Any) -> dict[str, torch.Tensor]:
    """The compared fields that a batch of TransferQueue has, padded with 0 to [B, T]."""
    names = [name for pair in PAIRS.values() for name in pair]
    return {name: data[name].to_padded_tensor(0) for name in names if name in data.keys()}

"""What calibrate prints."""

from __future__ import annotations

import json
from typing import Any

from verl_ext.calibrate import espo, sspo
from verl_ext.calibrate.run import Calibration
from verl_ext.replay.dump import NO_SIGNAL
from verl_ext.replay.report import percent

WHERE = "actor_rollout_ref.actor.policy_loss"
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def as_data(found: Calibration) -> dict[str, Any]:
    """Everything that is printed, JSON-able."""
    data: dict[str, Any] = {"rows": len(found.dump.keys), "tokens": found.dump.tokens, "signal": found.dump.signal}
    data["notes"] = list(found.notes)
    if not found.dump.signal:
        return data | _of_entropies(found)
    if found.espo is not None:
        data["espo"] = _espo_data(found.espo)
    if found.matched is not None:
        one = found.matched
        data["matched"] = {"loss": one.label, "clip_low": one.clip_low, "clip_high": one.clip_high}
    if found.sspo is not None:
        data["sspo"] = _sspo_data(found.sspo)
    return data


def as_json(found: Calibration) -> str:
    """See `as_data`."""
    return json.dumps(as_data(found), indent=1, allow_nan=False)


def _of_entropies(found: Calibration) -> dict[str, Any]:
    """What a batch without a signal says nevertheless; nothing is proposed from it."""
    alpha = None if found.espo is None or found.espo.target is not None else found.espo.solution.value
    data: dict[str, Any] = {"reason": NO_SIGNAL, "espo": {"alpha": None}, "sspo": {"alpha": None}, "of_entropies": {}}
    if found.espo is not None and alpha is not None:
        data["of_entropies"]["espo"] = {"alpha": alpha, "aim": found.espo.aim}
    if found.sspo is not None:
        data["of_entropies"]["sspo"] = {**found.sspo.values, "segments": len(found.sspo.segments.size)}
    return data


def _espo_data(proposal: espo.Proposal) -> dict[str, Any]:
    alpha = proposal.solution.value
    data: dict[str, Any] = {"alpha": alpha, "aim": proposal.aim, "reason": proposal.solution.reason}
    if alpha is not None:
        low, high = proposal.tokens.clipped(alpha)
        data |= {"clip_low": low, "clip_high": high, "mean_width": proposal.tokens.width(alpha)}
    return data


def _sspo_data(proposal: sspo.Proposal) -> dict[str, Any]:
    low, high = proposal.segments.clipped(**proposal.values)
    return {
        **proposal.values,
        "clip_low": low,
        "clip_high": high,
        "ranges": {name: list(ends) for name, ends in proposal.ranges.items()},
        "shares": proposal.shares(),
        "segments": len(proposal.segments.size),
        "entropy_quantiles": {f"{share:g}": proposal.segments.quantile(share) for share in QUANTILES},
    }


def lines(found: Calibration) -> list[str]:
    """The report for people."""
    data = as_data(found)
    text = [f"{data['rows']} rows, {data['tokens']} tokens"]
    if not data["signal"]:
        return [f"{data['reason']}. No clip range is proposed.", *text, *_entropy_lines(data["of_entropies"])]
    if found.espo is not None:
        text += ["", *_espo_lines(data["espo"])]
    if "matched" in data:
        one = data["matched"]
        text.append(f"  {one['loss']} clips      {_sides(one)}")
    if found.sspo is not None:
        text += ["", *_sspo_lines(data["sspo"])]
    return [*text, "", *(f"note  {note}" for note in found.notes)] if found.notes else text


def _entropy_lines(data: dict[str, Any]) -> list[str]:
    """Numbers that need neither advantages nor ratios, so called."""
    text = ["", "from the entropies alone, of a policy that may not learn: no proposals"] if data else []
    if "espo" in data:
        text.append(f"  ESPO, for {data['espo']['aim']}: alpha {data['espo']['alpha']:g}")
    if "sspo" in data:
        values = ", ".join(f"{name} {data['sspo'][name]:g}" for name in ("alpha", "beta", "gamma"))
        text.append(f"  SSPO, of {data['sspo']['segments']} segments: {values}")
    return text


def _sides(data: dict[str, Any]) -> str:
    low, high = data["clip_low"], data["clip_high"]
    return f"{percent(low)}% of the tokens below, {percent(high)}% above, {percent(low + high)}% together"


def _espo_lines(data: dict[str, Any]) -> list[str]:
    text = [f"ESPO, for {data['aim']}"]
    reason = [f"  {data['reason']}"] if data["reason"] else []
    if data["alpha"] is None:
        return [*text, "  no alpha is proposed", *reason]
    return [
        *text,
        f"  +{WHERE}.alpha={data['alpha']:g}",
        f"  mean width      {data['mean_width']:.4g}",
        f"  predicted       {_sides(data)}",
        *reason,
    ]


def _sspo_lines(data: dict[str, Any]) -> list[str]:
    quantiles = ", ".join(f"{100 * float(share):g}%: {value:.3g}" for share, value in data["entropy_quantiles"].items())
    shares = ", ".join(f"{name} in {percent(share)}%" for name, share in data["shares"].items())
    ranges = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in data["ranges"].items())
    return [
        f"SSPO, from the entropies of {data['segments']} segments (nats; {quantiles})",
        *(f"  +{WHERE}.{name}={data[name]:g}" for name in ("alpha", "beta", "gamma")),
        f"  predicted       {_sides(data)}",
        f"  worth a search  {ranges}",
        f"  of the segments {shares}",
    ]

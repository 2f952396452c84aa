"""What the engine says of each token against what the reference says: plain numbers, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Values:
    """Log-prob and entropy, in nats, of each token of a response: [T] each."""

    log_probs: Sequence[float]
    entropies: Sequence[float]


@dataclass(frozen=True)
class Response:
    """A response of the engine. `prompt` and `sample` count from 0."""

    prompt: int
    sample: int
    tokens: Sequence[int]
    values: Values


@dataclass(frozen=True)
class Limits:
    """The largest differences that pass, in nats."""

    log_prob: float
    entropy: float


@dataclass(frozen=True)
class Worst:
    """The token with the largest difference, or the first one with a value that is not finite."""

    prompt: int
    sample: int
    position: int
    token: int
    engine: float
    reference: float


@dataclass(frozen=True)
class Difference:
    """|engine - reference| over the tokens where both are finite; mean and largest are None where there are none."""

    mean: float | None
    largest: float | None
    limit: float
    worst: Worst

    @property
    def exceeded(self) -> bool:
        return self.largest is None or self.largest > self.limit


@dataclass(frozen=True)
class Row:
    """One temperature.

    Attributes:
        temperature: that divided the logits, on both sides.
        tokens: how many were compared.
        log_prob, entropy: the differences.
        lowest, highest: the engine's finite entropies; None where there are none.
        shifted: the largest |ΔH| if one side's entropies stood one token late or early, whichever shows less.
        engine_non_finite, reference_non_finite: values, log-probs and entropies together, that are NaN or infinite.
    """

    temperature: float
    tokens: int
    log_prob: Difference
    entropy: Difference
    lowest: float | None
    highest: float | None
    shifted: float | None
    engine_non_finite: int
    reference_non_finite: int

    @property
    def ok(self) -> bool:
        return not self.faults()

    @property
    def misalignment_shows(self) -> bool:
        """Whether entropies differ enough from token to token for a shift by one to be beyond the limit."""
        return self.shifted is not None and self.shifted > self.entropy.limit

    def faults(self) -> list[str]:
        """Why this row fails, in words."""
        found = []
        for name, difference in (("log p", self.log_prob), ("H", self.entropy)):
            if difference.largest is not None and difference.exceeded:
                found.append(f"max |Δ {name}| {difference.largest:.2g} is above the limit {difference.limit:g}")
        for side, count in (("engine", self.engine_non_finite), ("reference", self.reference_non_finite)):
            if count:
                found.append(f"{count} of the {side}'s values {'is' if count == 1 else 'are'} not finite")
        return found


def compare(temperature: float, engine: Sequence[Response], reference: Sequence[Values], limits: Limits) -> Row:
    """Put every token of the engine's responses beside the reference.

    Args:
        temperature: of both sides.
        engine: responses of any lengths, at least one token in all.
        reference: values of the same tokens, in the same order.
        limits: what passes.

    Example:
        >>> side = Response(0, 0, [7, 8], Values([-1.0, -2.0], [0.5, 1.5]))
        >>> row = compare(1.0, [side], [Values([-1.0, -2.25], [0.5, 1.5])], Limits(0.1, 0.1))
        >>> row.log_prob.largest, row.log_prob.worst.token, row.entropy.largest, row.shifted, row.ok
        (0.25, 8, 0.0, 1.0, False)
    """
    for ours, theirs in zip(engine, reference, strict=True):
        lengths = [len(part) for side in (ours.values, theirs) for part in (side.log_probs, side.entropies)]
        assert lengths == [len(ours.tokens)] * 4, lengths
    sides = ([response.values for response in engine], reference)
    log_probs, log_probs_expected = (_flat([values.log_probs for values in side]) for side in sides)
    entropies, entropies_expected = (_flat([values.entropies for values in side]) for side in sides)
    seen = entropies[np.isfinite(entropies)]
    return Row(
        temperature=temperature,
        tokens=len(log_probs),
        log_prob=_difference(engine, log_probs, log_probs_expected, limits.log_prob),
        entropy=_difference(engine, entropies, entropies_expected, limits.entropy),
        lowest=float(seen.min()) if seen.size else None,
        highest=float(seen.max()) if seen.size else None,
        shifted=_shifted(engine, reference),
        engine_non_finite=_non_finite(log_probs, entropies),
        reference_non_finite=_non_finite(log_probs_expected, entropies_expected),
    )


def _flat(parts: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def _non_finite(*values: np.ndarray) -> int:
    return sum(int((~np.isfinite(part)).sum()) for part in values)


def _gaps(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """|ours - theirs|; infinite where either is not finite, so that such a token comes first."""
    finite = np.isfinite(ours) & np.isfinite(theirs)
    gaps = np.full(len(ours), np.inf)
    gaps[finite] = np.abs(ours[finite] - theirs[finite])
    return gaps


def _difference(engine: Sequence[Response], ours: np.ndarray, theirs: np.ndarray, limit: float) -> Difference:
    gaps = _gaps(ours, theirs)
    finite = gaps[np.isfinite(gaps)]
    index = int(gaps.argmax())
    places = [(response, position) for response in engine for position in range(len(response.tokens))]
    response, position = places[index]
    token = response.tokens[position]
    return Difference(
        mean=float(finite.mean()) if finite.size else None,
        largest=float(finite.max()) if finite.size else None,
        limit=limit,
        worst=Worst(response.prompt, response.sample, position, token, float(ours[index]), float(theirs[index])),
    )


def _shifted(engine: Sequence[Response], reference: Sequence[Values]) -> float | None:
    late, early = [], []
    for response, values in zip(engine, reference, strict=True):
        ours, theirs = _flat([response.values.entropies]), _flat([values.entropies])
        late.append(_gaps(ours[1:], theirs[:-1]))
        early.append(_gaps(ours[:-1], theirs[1:]))
    largest = [gaps[np.isfinite(gaps)].max(initial=-1.0) for gaps in (_flat(late), _flat(early))]
    return float(min(largest)) if min(largest) >= 0 else None

"""The scale of each colouring: the same for all responses of a page, so that colours compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from verl_ext.viewer.columns import CLIPPING, CLIPPING_ABOUT, COLOURINGS, COLUMNS, Colouring, Column, missing

# Values beyond these take the colours of the ends: one outlier would otherwise leave the rest one colour.
ENDS = (0.01, 0.99)
BINS = 48
CLIP_COLUMNS = ("clipped_low", "clipped_high")


def needed(colouring: Colouring) -> tuple[str, ...]:
    """The columns that a colouring reads."""
    return CLIP_COLUMNS if colouring.column == CLIPPING else (colouring.column,)


def describe(columns: dict[str, Sequence[np.ndarray]], masks: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The colourings for the manifest, in order.

    Args:
        columns: column -> a row's numbers, for every row; an empty array where a step lacks the column.
        masks: which tokens are trained on; the others count for no scale.
    """
    found = []
    for colouring in COLOURINGS:
        absent = [name for name in needed(colouring) if name not in columns]
        if absent and not colouring.main:
            continue
        entry = asdict(colouring) | {"columns": list(needed(colouring)), "missing": missing(colouring.column)}
        if not absent and colouring.kind in ("sequential", "diverging"):
            entry |= scale(colouring, _valid(columns[colouring.column], masks))
        if not absent and colouring.kind == "clipping":
            entry["counts"] = _clip_counts(columns, masks)
        if not absent and colouring.kind == "classes":
            entry["classes"] = int(max((row.max(initial=-1) for row in columns[colouring.column]), default=-1)) + 1
        known = Column("", about=CLIPPING_ABOUT) if colouring.column == CLIPPING else COLUMNS[colouring.column]
        found.append(entry | {"unit": known.unit, "about": known.about})
    return found


def scale(colouring: Colouring, values: np.ndarray) -> dict[str, Any]:
    """Ends of the scale, its histogram, and the range of the values.

    `sequential` reaches from `start` (or the 1st percentile) to the 99th; `diverging` reaches equally far to both sides
    of `start`, to whichever of the two percentiles is further away.

    Args:
        colouring: one of the two kinds.
        values: of the tokens trained on; NaN and infinities are left out.

    Example:
        >>> from verl_ext.viewer.columns import Colouring
        >>> found = scale(Colouring("ratio", "ratio", "diverging", 1.0), np.array([0.5, 1.0, 1.25]))
        >>> round(found["low"], 2), round(found["high"], 2)  # 0.51 is the 1st percentile: 0.5 + 0.02 * 0.5
        (0.51, 1.49)
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return {"low": 0.0, "high": 1.0, "counts": [0] * BINS, "least": None, "greatest": None}
    first, last = (float(end) for end in np.quantile(values, ENDS))
    if colouring.kind == "diverging":
        assert colouring.start is not None
        reach = max(abs(first - colouring.start), abs(last - colouring.start)) or _reach(values, colouring.start)
        low, high = colouring.start - reach, colouring.start + reach
    else:
        low = first if colouring.start is None else min(colouring.start, first)
        high = last if last > low else low + _reach(values, low)
    bins = ((values - low) / (high - low) * BINS).clip(0, BINS - 1).astype(np.int64)
    return {
        "low": low,
        "high": high,
        "counts": np.bincount(bins, minlength=BINS).tolist(),
        "least": float(values.min()),
        "greatest": float(values.max()),
    }


def _reach(values: np.ndarray, start: float) -> float:
    """As far as the furthest value, where the percentiles are no range; something where all are equal."""
    return float(np.abs(values - start).max()) or max(1.0, abs(start))


def _valid(rows: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    kept = [row[mask] for row, mask in zip(rows, masks, strict=True) if len(row)]
    return np.concatenate(kept) if kept else np.zeros(0, np.float32)


def _clip_counts(columns: dict[str, Sequence[np.ndarray]], masks: Sequence[np.ndarray]) -> list[int]:
    """Tokens clipped below, not clipped, clipped above."""
    low, high = (_valid(columns[name], masks) != 0 for name in CLIP_COLUMNS)
    return [int((low & ~high).sum()), int((~low & ~high).sum()), int(high.sum())]

"""Clip fraction against the parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from verl_ext.calibrate import espo, sspo
from verl_ext.calibrate.run import Calibration
from verl_ext.replay.figure import COLOURS, GREY, GRID, INK, as_png, canvas, finish, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 200


def picture(found: Calibration) -> bytes:
    """The picture as PNG: one panel for ESPO, three for SSPO."""
    panels: list[Callable[[Axes], None]] = []
    if found.espo is not None:
        panels.append(partial(_espo, proposal=found.espo))
    if found.sspo is not None:
        panels += [partial(_sspo, proposal=found.sspo, name=name) for name in found.sspo.values]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = canvas(5.6 * columns, 3.9 * rows)
    axes = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    for ax, draw in zip(axes, panels, strict=False):
        draw(ax)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return as_png(figure)


def _espo(ax: Axes, proposal: espo.Proposal) -> None:
    critical = proposal.tokens.critical
    positive = critical[(critical > 0) & np.isfinite(critical)]
    alpha = proposal.solution.value
    middle = [alpha] if alpha else []
    ends = [*middle, *(np.quantile(positive, (0.02, 1.0)) if len(positive) else ()), *([] if len(positive) else [0.1])]
    values = np.geomspace(min(ends) / 1.5, max(ends) * 1.5, POINTS)
    _curves(ax, values, [proposal.tokens.clipped(value) for value in values], alpha)
    heading(ax, "ESPO: alpha", "per cent of the tokens clipped")
    ax.set_xscale("log")
    if proposal.target is not None:
        ax.axhline(100 * proposal.target, color=GREY, linewidth=1, linestyle=":")


def _sspo(ax: Axes, proposal: sspo.Proposal, name: str) -> None:
    chosen = proposal.values[name]
    low, high = proposal.ranges[name]
    low, high = min(low, chosen), max(high, chosen)
    room = 0.25 * (high - low) or 0.1
    least = {"alpha": 0.0, "beta": 0.0, "gamma": 1.0}[name]
    values = np.linspace(max(least, low - room), min(1.0, high + room) if name == "beta" else high + room, POINTS)
    clipped = [proposal.segments.clipped(**{**proposal.values, name: value}) for value in values]
    _curves(ax, values, clipped, chosen)
    others = ", ".join(f"{other}={value:g}" for other, value in proposal.values.items() if other != name)
    heading(ax, f"SSPO: {name}", f"per cent of the tokens clipped, with {others}")


def _curves(ax: Axes, values: np.ndarray, clipped: Sequence[tuple[float, float]], chosen: float | None) -> None:
    for side, label in enumerate(("below", "above")):
        ax.step(values, [100 * pair[side] for pair in clipped], where="post", color=COLOURS[side], label=label)
    finish(ax)
    ax.grid(axis="y", color=GRID)
    ax.set_ylim(0, 1.15 * max(0.1, ax.get_ylim()[1]))
    if chosen is not None:
        ax.axvline(chosen, color=INK, linewidth=1, linestyle="--", label=f"proposed: {chosen:g}")
    ax.legend(fontsize=9, frameon=False, labelcolor=INK)

"""What the pictures of all reports share: colours, axes, curves, stacked bars."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from verl_ext.run_report.history import History, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, GRID = "#1f2933", "#66727f", "#e4e8ec"
BLUE, ORANGE, GREEN, PURPLE = "#2563a8", "#d9722b", "#2f8f6b", "#7a5bb0"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#c2416b", "#8a6d1f", "#1f9bb5", "#5b6770", "#a3b83a", "#b06fd0")
GROUPS = COLOURS[:4]
PHASE_COLOURS = {
    "rollout": "#2563a8",
    "reward": "#d65f7c",
    "old log-probs": "#7fb0dd",
    "reference log-probs": "#b7d3ec",
    "values": "#94cdb4",
    "advantages": "#7a5bb0",
    "critic update": "#5aa58a",
    "actor update": "#2f8f6b",
    "weight sync": "#e0914f",
    "checkpoint": "#bcaad9",
}
REST_COLOUR = "#c5ccd3"


def group_name(group: int, count: int) -> str:
    """``low entropy`` and ``high entropy`` for two groups, numbers for more, ``all tokens`` for one."""
    if count == 1:
        return "all tokens"
    ends = {0: "lowest" if count > 2 else "low", count - 1: "highest" if count > 2 else "high"}
    return f"{ends[group]} entropy" if group in ends else f"entropy group {group}"


def smooth(values: list[float], weight: float = 0.7) -> list[float]:
    """Exponential moving average without the pull towards its start: sum w^k x / sum w^k."""
    result, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + value, weight * norm + 1.0
        result.append(total / norm)
    return result


def title(ax: Axes, text: str, unit: str) -> None:
    """Heading of a panel, its unit below."""
    ax.set_title(text, loc="left", fontsize=13, fontweight="bold", color=INK, pad=22)
    ax.text(0, 1.03, unit, transform=ax.transAxes, fontsize=10, color=GREY, va="bottom")


def finish(ax: Axes, last: int) -> None:
    """Axes of a panel over the steps 0 to `last`, as quiet as they can be."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.tick_params(which="both", colors=GREY, labelsize=10, length=0)
    ax.grid(axis="y", color=GRID, linewidth=1)
    ax.set_axisbelow(True)
    ax.set_xlim(-0.02 * last, 1.02 * last)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    # Every label by itself: an offset or a common factor would be printed over the second line of the heading.
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if ax.get_yscale() == "linear" and not isinstance(ax.yaxis.get_major_locator(), FixedLocator):
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.set_xlabel("step", fontsize=10, color=GREY)


def absent(ax: Axes) -> None:
    """In place of a curve that no step reported."""
    ax.text(0.5, 0.5, "not reported", transform=ax.transAxes, color=GREY, ha="center", fontsize=11)


def line(ax: Axes, series: Series, colour: str, label: str = "", weight: float = 0.7) -> None:
    """The raw values, faint, with their moving average on top."""
    steps, values = series
    ax.plot(steps, values, color=colour, alpha=0.25, linewidth=1.2)
    ax.plot(steps, smooth(values, weight), color=colour, linewidth=2.2, label=label)


def legend(ax: Axes, columns: int = 1) -> None:
    """Names of the curves, in a corner of the panel."""
    ax.legend(fontsize=9.5, frameon=True, framealpha=0.9, edgecolor="none", labelcolor=INK, ncols=columns,
              loc="upper right", handlelength=1.3, columnspacing=1.0, borderaxespad=0.2)  # fmt: skip


def entropy(ax: Axes, history: History) -> None:
    """The entropy of all tokens and of each group of them."""
    groups = history.groups()
    title(ax, "Entropy", "nats, mean over tokens")
    whole = history.series("entropy")
    parts = [(group, history.group_series(group, "entropy")) for group in groups if len(groups) > 1]
    if not whole[0] and not parts:
        absent(ax)
        return
    for group, series in parts:
        line(ax, series, GROUPS[group % len(GROUPS)], group_name(group, len(groups)))
    if whole[0]:
        line(ax, whole, INK, "all tokens")
    if parts:
        legend(ax)
    ax.set_ylim(bottom=0)


def clip_fractions(ax: Axes, history: History) -> None:
    """Share of clipped tokens, by group and bound where the loss has groups."""
    groups = history.groups()
    where = "each group's tokens; solid: above, dashed: below" if groups else "all tokens"
    title(ax, "Clipped tokens", f"per cent of {where}")
    if not groups:
        steps, values = history.series("clip fraction")
        if steps:
            line(ax, (steps, [100 * value for value in values]), BLUE)
        else:
            absent(ax)
    for group in groups:
        colour = GROUPS[group % len(GROUPS)]
        for side, style in (("clip_high", "-"), ("clip_low", "--")):
            steps, values = history.group_series(group, side)
            name = group_name(group, len(groups)) if side == "clip_high" else None
            percent = smooth([100 * value for value in values])
            ax.plot(steps, percent, color=colour, linestyle=style, linewidth=2, label=name)
    ax.set_ylim(0, 1.3 * max(0.1, ax.get_ylim()[1]))  # room for the legend
    if groups:
        legend(ax)


def phases(ax: Axes, history: History) -> None:
    """Seconds a step, stacked by what they were spent on."""
    found = history.phases()
    title(ax, "Time a step", "seconds, by phase")
    if not found:
        absent(ax)
        return
    totals = stacked(ax, found, PHASE_COLOURS)
    # A first step that compiles and warms up must not flatten the others.
    usual = sorted(totals)[len(totals) // 2]
    ax.set_ylim(0, min(max(totals), 2 * usual) * 1.35)
    legend(ax, columns=3)


def stacked(ax: Axes, parts: Mapping[str, Series], colours: Mapping[str, str]) -> list[float]:
    """Bars over steps, one part on the other; returns their heights. A part that a step lacks counts 0 there."""
    steps = sorted({step for at, _ in parts.values() for step in at})
    base = [0.0] * len(steps)
    width = min((b - a for a, b in itertools.pairwise(steps)), default=1)
    for name, (at, values) in parts.items():
        known = dict(zip(at, values, strict=True))
        heights = [known.get(step, 0.0) for step in steps]
        colour = colours.get(name, REST_COLOUR)
        ax.bar(steps, heights, bottom=base, width=width, color=colour, linewidth=0, label=name)
        base = [b + h for b, h in zip(base, heights, strict=True)]
    return base

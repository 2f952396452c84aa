"""The report's picture: six panels over training steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.demo.metrics import History, Series, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, GRID = "#1f2933", "#66727f", "#e4e8ec"
BLUE, ORANGE, GREEN, PURPLE = "#2563a8", "#d9722b", "#2f8f6b", "#7a5bb0"
GROUPS = (BLUE, ORANGE, GREEN, PURPLE)
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


def draw(history: History, problems: int, title: str, path: Path) -> None:
    """Write the picture as PNG.

    Args:
        history: the run.
        problems: number of validation problems, for the 95% intervals.
        title: heading of the picture.
        path: where to write.
    """
    # Figures made this way need no display and leave pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.16, rect=(0.005, 0, 0.99, 0.95))
    figure = Figure(figsize=(15, 8.4), dpi=120, facecolor="white", layout=engine)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).flatten()
    _accuracy(axes[0], history.accuracy(), problems)
    _curve(axes[1], history.series("reward"), "Reward", "mean of the step's responses", GREEN)
    _entropy(axes[2], history)
    _clip_fractions(axes[3], history)
    _curve(axes[4], history.series("response length"), "Response length", "tokens, mean", PURPLE)
    _phases(axes[5], history)
    last = max([1, *(record.step for record in history.records)])
    for ax in axes:
        _finish(ax, last)
    _heading(figure, title)
    figure.savefig(path)


def _heading(figure: Figure, title: str) -> None:
    figure.text(0.012, 0.972, title, fontsize=16, fontweight="bold", color=INK, ha="left", va="center")


def _title(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=22)
    ax.text(0, 1.03, unit, transform=ax.transAxes, fontsize=10, color=GREY, va="bottom")


def _finish(ax: Axes, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.tick_params(colors=GREY, labelsize=10, length=0)
    ax.grid(axis="y", color=GRID, linewidth=1)
    ax.set_axisbelow(True)
    ax.set_xlim(-0.02 * last, 1.02 * last)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.set_xlabel("step", fontsize=10, color=GREY)


def _none(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not reported", transform=ax.transAxes, color=GREY, ha="center", fontsize=11)


def _line(ax: Axes, series: Series, colour: str, label: str = "") -> None:
    """The raw values, faint, with their moving average on top."""
    steps, values = series
    ax.plot(steps, values, color=colour, alpha=0.25, linewidth=1.2)
    ax.plot(steps, smooth(values), color=colour, linewidth=2.2, label=label)


def _curve(ax: Axes, series: Series, title: str, unit: str, colour: str) -> None:
    _title(ax, title, unit)
    if not series[0]:
        _none(ax)
        return
    _line(ax, series, colour)


def _accuracy(ax: Axes, series: Series, problems: int) -> None:
    _title(ax, "Validation accuracy", f"per cent of {problems} held-out problems, with 95% intervals")
    steps, values = series
    if not steps:
        _none(ax)
        return
    percent = [100 * value for value in values]
    bounds = [wilson(value, problems) for value in values]
    below = [100 * (value - low) for value, (low, _) in zip(values, bounds, strict=True)]
    above = [100 * (high - value) for value, (_, high) in zip(values, bounds, strict=True)]
    ax.errorbar(steps, percent, yerr=[below, above], color=BLUE, linewidth=2.2, marker="o", markersize=7,
                capsize=4, elinewidth=1.4, clip_on=False)  # fmt: skip
    for index, ha in {0: "left", len(steps) - 1: "right"}.items():
        offset = (9, -16) if ha == "left" else (-9, 9)
        ax.annotate(f"{percent[index]:.1f}", (steps[index], percent[index]), xytext=offset, ha=ha,
                    textcoords="offset points", fontsize=12, fontweight="bold", color=INK)  # fmt: skip
    ax.set_ylim(max(0, min(percent) - 15), min(101, max(percent) + 15))


def _entropy(ax: Axes, history: History) -> None:
    groups = history.groups()
    _title(ax, "Entropy", "nats, mean over tokens")
    whole = history.series("entropy")
    parts = [(group, history.group_series(group, "entropy")) for group in groups if len(groups) > 1]
    if not whole[0] and not parts:
        _none(ax)
        return
    for group, series in parts:
        _line(ax, series, GROUPS[group % len(GROUPS)], group_name(group, len(groups)))
    if whole[0]:
        _line(ax, whole, INK, "all tokens")
    if parts:
        _legend(ax)
    ax.set_ylim(bottom=0)


def _clip_fractions(ax: Axes, history: History) -> None:
    groups = history.groups()
    where = "each group's tokens; solid: above, dashed: below" if groups else "all tokens"
    _title(ax, "Clipped tokens", f"per cent of {where}")
    if not groups:
        steps, values = history.series("clip fraction")
        if steps:
            _line(ax, (steps, [100 * value for value in values]), BLUE)
        else:
            _none(ax)
    for group in groups:
        colour = GROUPS[group % len(GROUPS)]
        for side, style in (("clip_high", "-"), ("clip_low", "--")):
            steps, values = history.group_series(group, side)
            label = group_name(group, len(groups)) if side == "clip_high" else None
            ax.plot(
                steps,
                smooth([100 * v for v in values]),
                color=colour,
                linestyle=style,
                linewidth=2,
                label=label,
            )
    ax.set_ylim(0, 1.3 * max(0.1, ax.get_ylim()[1]))  # room for the legend
    if groups:
        _legend(ax)


def _phases(ax: Axes, history: History) -> None:
    phases = history.phases()
    _title(ax, "Time a step", "seconds, by phase")
    if not phases:
        _none(ax)
        return
    steps = sorted({step for at, _ in phases.values() for step in at})
    base = [0.0] * len(steps)
    for label, (at, seconds) in phases.items():
        colour = PHASE_COLOURS.get(label, REST_COLOUR)
        known = dict(zip(at, seconds, strict=True))
        heights = [known.get(step, 0.0) for step in steps]
        ax.bar(steps, heights, bottom=base, width=1.0, color=colour, linewidth=0, label=label)
        base = [b + h for b, h in zip(base, heights, strict=True)]
    # A first step that compiles and warms up must not flatten the others.
    usual = sorted(base)[len(base) // 2]
    ax.set_ylim(0, min(max(base), 2 * usual) * 1.35)
    _legend(ax, columns=3)


def _legend(ax: Axes, columns: int = 1) -> None:
    ax.legend(fontsize=9.5, frameon=True, framealpha=0.9, edgecolor="none", labelcolor=INK, ncols=columns,
              loc="upper right", handlelength=1.3, columnspacing=1.0, borderaxespad=0.2)  # fmt: skip

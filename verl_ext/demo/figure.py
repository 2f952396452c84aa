"""The report's picture: six panels over training steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.run_report import drawing
from verl_ext.run_report.drawing import BLUE, GREEN, INK, PURPLE, group_name, smooth
from verl_ext.run_report.history import History, Series, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "group_name", "smooth"]


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
    drawing.entropy(axes[2], history)
    drawing.clip_fractions(axes[3], history)
    _curve(axes[4], history.series("response length"), "Response length", "tokens, mean", PURPLE)
    drawing.phases(axes[5], history)
    last = max([1, *(record.step for record in history.records)])
    for ax in axes:
        drawing.finish(ax, last)
    _heading(figure, title)
    figure.savefig(path)


def _heading(figure: Figure, title: str) -> None:
    figure.text(0.012, 0.972, title, fontsize=16, fontweight="bold", color=INK, ha="left", va="center")


def _curve(ax: Axes, series: Series, title: str, unit: str, colour: str) -> None:
    drawing.title(ax, title, unit)
    if not series[0]:
        drawing.absent(ax)
        return
    drawing.line(ax, series, colour)


def _accuracy(ax: Axes, series: Series, problems: int) -> None:
    drawing.title(ax, "Validation accuracy", f"per cent of {problems} held-out problems, with 95% intervals")
    steps, values = series
    if not steps:
        drawing.absent(ax)
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

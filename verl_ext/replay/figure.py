"""The picture of a replay: cosines, clip fractions, gradient over entropy."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from verl_ext.replay.dump import NO_SIGNAL
from verl_ext.replay.run import Replay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, GRID = "#1f2933", "#66727f", "#e4e8ec"
COLOURS = ("#2563a8", "#d9722b", "#2f8f6b", "#7a5bb0", "#d65f7c", "#8a6d3b", "#5c6b78", "#17a2b8")
# Lines of one colour differ by it.
STYLES = ("-", "--", ":")


def picture(replay: Replay) -> bytes:
    """The picture as PNG."""
    count = len(replay.subjects)
    figure = canvas(6.2 + 3 * max(3.4, 0.7 * count), max(4.4, 2.6 + 0.45 * count))
    axes = figure.subplots(1, 3)
    if not replay.dump.signal:
        figure.suptitle(NO_SIGNAL.partition(".")[0], color=COLOURS[1])
    _cosines(axes[0], replay)
    _clips(axes[1], replay)
    _over_entropy(axes[2], replay)
    return as_png(figure)


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display and leaves pyplot's global state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """The figure's bytes."""
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def heading(ax: Axes, title: str, unit: str) -> None:
    """Title and, below it, what is drawn."""
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=20)
    ax.text(0, 1.02, unit, transform=ax.transAxes, fontsize=9.5, color=GREY, va="bottom")


def finish(ax: Axes) -> None:
    """A plain frame."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.tick_params(colors=GREY, labelsize=9.5, length=0)
    ax.set_axisbelow(True)


def line_style(number: int) -> dict[str, Any]:
    """Colour and style of the n-th line."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}


def _cosines(ax: Axes, replay: Replay) -> None:
    labels = [subject.label for subject in replay.subjects]
    values = replay.cosine.tolist()
    heading(ax, "Cosine", f"of gradients with respect to {'parameters' if replay.by_parameters else 'log-probs'}")
    ax.imshow(replay.cosine.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    for row, entries in enumerate(values):
        for column, value in enumerate(entries):
            text = "none" if math.isnan(value) else f"{value:.2f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if abs(value) > 0.6 else INK)
    ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    ax.spines[:].set_visible(False)
    ax.tick_params(colors=INK, labelsize=10, length=0)


def _clips(ax: Axes, replay: Replay) -> None:
    heading(ax, "Clipped tokens", "per cent of all tokens, below and above")
    places = range(len(replay.measured))
    for offset, name, colour, label in (
        (-0.2, "clip_low", COLOURS[0], "below"),
        (0.2, "clip_high", COLOURS[1], "above"),
    ):
        values = [100 * getattr(one, name) for one in replay.measured]
        at = [place + offset for place in places]
        ax.barh(at, values, height=0.36, color=colour, label=label)
        for where, value in zip(at, values, strict=True):
            ax.text(value, where, f" {value:.3g}", va="center", fontsize=9, color=INK)
    ax.set_yticks(list(places), [one.label for one in replay.measured])
    ax.invert_yaxis()
    finish(ax)
    ax.tick_params(axis="y", colors=INK, labelsize=10)
    ax.grid(axis="x", color=GRID)
    ax.set_xlim(0, 1.2 * max(0.1, ax.get_xlim()[1]))
    ax.legend(fontsize=9.5, frameon=False, loc="lower right", labelcolor=INK)


def _over_entropy(ax: Axes, replay: Replay) -> None:
    heading(ax, "Gradient over entropy", "per cent of |gradient| on each tenth of the tokens, by old entropy")
    drawn = False
    for number, measured in enumerate(replay.measured):
        profile = replay.profile(measured)
        if profile is None or any(map(math.isnan, profile[1])):
            continue
        shares = [100 * part for part in profile[1]]
        ax.plot(
            range(1, len(shares) + 1),
            shares,
            marker="o",
            markersize=4,
            linewidth=2,
            label=measured.label,
            **line_style(number),
        )
        drawn = True
    finish(ax)
    ax.grid(axis="y", color=GRID)
    if not drawn:
        ax.text(0.5, 0.5, "no entropies, or no gradient", transform=ax.transAxes, ha="center", color=GREY)
        return
    ax.set_xticks(range(1, 11))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("tenth of the tokens, 10 = highest entropy", fontsize=9.5, color=GREY)
    ax.legend(fontsize=9.5, frameon=False, labelcolor=INK)

"""Small panels, one for each method of a study, the reference methods in grey in all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from verl_ext.replay.figure import canvas, finish
from verl_ext.run_report.drawing import BLUE, GREY, GRID, INK, ORANGE, smooth
from verl_ext.study.measures import Curve, Runs, curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from verl_ext.study.schema import Study

COLUMNS = 4
WIDTH, ROW = 11.0, 2.15
REFERENCES = {"gspo": "-", "grpo": (0, (2, 1.5))}
"""Methods that are in every panel, and the style of their line."""
PERCENT_STEPS = (0.0, 0.0001, 0.001, 0.01, 0.1, 1.0)

Found = Mapping[tuple[str, str], Runs]
Quantity = Callable[[Runs], Curve]

METHOD_KEY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the method, mean over seeds", {"color": BLUE, "linewidth": 2}),
    ("its 95% interval", {"facecolor": BLUE, "alpha": 0.16}),
    ("its seeds", {"color": BLUE, "linewidth": 0.7, "alpha": 0.6}),
)
CLIP_KEY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clipped below, mean over seeds", {"color": BLUE, "linewidth": 2}),
    ("clipped above", {"color": ORANGE, "linewidth": 2}),
    ("from the lowest to the highest seed", {"facecolor": GREY, "alpha": 0.2}),
)


def panels(study: Study, found: Found) -> dict[str, list[Runs]]:
    """Model -> runs of its methods that have some, in the study's order."""
    order = {
        model: [found[model, name] for name in names if (model, name) in found] for model, names in study.models.items()
    }
    return {model: runs for model, runs in order.items() if runs}


def multiples(
    study: Study,
    found: Found,
    panel: Callable[[Axes, Runs, Found], None],
    unit: str,
    key: Sequence[tuple[str, dict[str, Any]]],
) -> Figure:
    """A panel for each method of each model, one y axis a model."""
    shown = panels(study, found)
    rows = [-(-len(runs) // COLUMNS) for runs in shown.values()]
    figure = canvas(WIDTH, 0.75 + sum(ROW * count + 0.35 for count in rows))
    legend(figure, key)
    places = figure.subfigures(len(shown), 1, height_ratios=[ROW * count + 0.35 for count in rows], squeeze=False)[:, 0]
    for place, count, (model, runs) in zip(places, rows, shown.items(), strict=True):
        place.suptitle(f"{model}: {unit}, {seeds(runs)}", x=0.012, ha="left", fontsize=11, color=GREY)
        axes = place.subplots(count, COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
        for ax, one in zip(axes, runs, strict=False):
            panel(ax, one, found)
            dress(ax, study.methods[one.method].label, max(run.steps for run in one.runs))
        for ax in axes[len(runs) :]:
            ax.set_axis_off()
        for ax in axes[max(0, len(runs) - COLUMNS) : len(runs)]:
            ax.set_xlabel("step", fontsize=9, color=GREY)
            ax.tick_params(labelbottom=True)
    return figure


def seeds(runs: Sequence[Runs]) -> str:
    """``3 seeds``, or ``1 to 3 seeds`` while runs are missing."""
    counts = sorted({len(one.runs) for one in runs})
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seed{'s' if counts[-1] > 1 else ''}"


def dress(ax: Axes, label: str, last: int) -> None:
    """Heading and axes of a panel."""
    from matplotlib.ticker import MaxNLocator

    finish(ax)
    ax.set_title(label, loc="left", fontsize=9.5, fontweight="bold", color=INK, pad=5)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.tick_params(labelsize=8.5)
    ax.set_xlim(-0.02 * last, 1.02 * last)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 3, 6, 10]))


def legend(figure: Figure, key: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """What lines and colours mean, above all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [Patch(**style) if "facecolor" in style else Line2D([], [], **style) for _, style in key]
    names = [name for name, _ in key]
    figure.legend(marks, names, loc="outside upper left", ncols=8, fontsize=9, frameon=False,
                  labelcolor=INK, handlelength=1.8, columnspacing=1.4)  # fmt: skip


def smoothed(runs: Runs, name: str) -> Curve:
    """A curve of training steps, each seed's moving average before anything else."""
    found = runs.curve(name)
    return curve({seed: (found.steps, smooth(values)) for seed, values in found.seeds.items()})


def band(ax: Axes, curve: Curve, colour: str) -> None:
    """Mean, interval, and each seed's own curve as a hair line."""
    bounded = [(s, e.low, e.high) for s, e in zip(curve.steps, curve.estimates, strict=True) if e.low is not None]
    if bounded:
        steps, low, high = zip(*bounded, strict=True)
        ax.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
    for values in curve.seeds.values():
        ax.plot(curve.steps, values, color=colour, linewidth=0.7, alpha=0.6)
    ax.plot(curve.steps, curve.mean, color=colour, linewidth=2)


def against(ax: Axes, runs: Runs, found: Found, quantity: Quantity, most: float | None = None) -> None:
    """A method's curve on those of the references. Bands do not widen the axis: with few seeds they fill it."""
    for name, style in REFERENCES.items():
        if name != runs.method and (runs.model, name) in found:
            other = quantity(found[runs.model, name])
            ax.plot(other.steps, other.mean, color=GREY, linewidth=1.3, alpha=0.85, linestyle=style)
    band(ax, quantity(runs), BLUE)
    every = [
        value
        for (model, _), one in found.items()
        if model == runs.model
        for values in quantity(one).seeds.values()
        for value in values
        if math.isfinite(value)
    ]
    if every:
        room = 0.08 * (max(every) - min(every)) or 0.05
        ax.set_ylim(max(0.0, min(every) - room), min(most or float("inf"), max(every) + room))


def clipping(ax: Axes, runs: Runs, found: Found, ending: str) -> None:
    """Clip fractions below and above on an axis that shows 0 and a hundredth of a per cent."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    for side, colour in (("clip_low", BLUE), ("clip_high", ORANGE)):
        found_curve = smoothed(runs, side + ending)
        columns = list(zip(*found_curve.seeds.values(), strict=True))
        ax.fill_between(
            found_curve.steps,
            [min(c) for c in columns],
            [max(c) for c in columns],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        ax.plot(found_curve.steps, found_curve.mean, color=colour, linewidth=2)
    ax.set_yscale("symlog", linthresh=PERCENT_STEPS[1], linscale=0.5)
    ax.set_ylim(-0.1 * PERCENT_STEPS[1], 1.3)  # room for a curve that is 0, and for one that is 1
    ax.set_yticks(PERCENT_STEPS)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def key_with_references(study: Study) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a panel, and those of the methods that are in all of them."""
    grey: dict[str, Any] = {"color": GREY, "linewidth": 1.3}
    known = {name: style for name, style in REFERENCES.items() if name in study.methods}
    return [*METHOD_KEY, *((study.methods[name].label, {**grey, "linestyle": style}) for name, style in known.items())]

"""The pictures of a study: a small panel for each method, the reference methods in grey in all of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from verl_ext.replay.figure import as_png, canvas, finish
from verl_ext.run_report.drawing import BLUE, GREY, GRID, INK, ORANGE, PHASE_COLOURS, REST_COLOUR, smooth
from verl_ext.study.measures import Curve, Runs, curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from verl_ext.study.schema import Study

    Place = Figure | SubFigure

COLUMNS = 4
WIDTH, ROW = 11.0, 2.15
REFERENCES = {"gspo": "-", "grpo": (0, (2, 1.5))}
"""Methods that are in every panel, and the style of their line."""
PERCENT_STEPS = (0.0, 0.0001, 0.001, 0.01, 0.1, 1.0)

Found = Mapping[tuple[str, str], Runs]
Quantity = Callable[[Runs], Curve]


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        name: file name in docs/images.
        title: heading.
        caption: what is drawn.
        draw: figure of (study, runs).
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Study, Found], Figure]


def drawn(study: Study, found: Found, name: str) -> bytes:
    """One of `PICTURES` as PNG; its bytes depend on the results and matplotlib's version alone."""
    (picture,) = [picture for picture in PICTURES if picture.name == name]
    return small(as_png(picture.draw(study, found)))


def small(png: bytes) -> bytes:
    """The picture with 128 colours, a third of the bytes."""
    from PIL import Image

    target = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        target, "png", optimize=True
    )
    return target.getvalue()


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


def as_percent(ax: Axes, runs: Runs, found: Found) -> None:
    from matplotlib.ticker import PercentFormatter

    against(ax, runs, found, Runs.accuracy, 1.0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


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


def times(study: Study, found: Found) -> Figure:
    """Seconds a step by phase, a bar for each method."""
    shown = panels(study, found)
    figure = canvas(WIDTH, 0.8 + sum(0.75 + 0.33 * len(runs) for runs in shown.values()))
    heights = [len(runs) for runs in shown.values()]
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    phases = list(dict.fromkeys(name for runs in shown.values() for one in runs for name in one.phases()))
    order = [name for name in PHASE_COLOURS if name in phases] + [name for name in phases if name not in PHASE_COLOURS]
    legend(figure, [(name, {"facecolor": PHASE_COLOURS.get(name, REST_COLOUR)}) for name in order])
    for ax, (model, runs) in zip(axes, shown.items(), strict=True):
        labels = [study.methods[one.method].label for one in runs]
        base = [0.0] * len(runs)
        for name in order:
            widths = [fmean(one.phases()[name].values()) if one.phases().get(name) else 0.0 for one in runs]
            ax.barh(range(len(runs)), widths, left=base, height=0.72, color=PHASE_COLOURS.get(name, REST_COLOUR))
            base = [b + width for b, width in zip(base, widths, strict=True)]
        for place, end in enumerate(base):
            ax.text(end, place, f" {end:.2f}", va="center", fontsize=9, color=INK)
        finish(ax)
        ax.set_yticks(range(len(runs)), labels, fontsize=9.5, color=INK)
        ax.invert_yaxis()
        ax.grid(axis="x", color=GRID, linewidth=0.8)
        ax.set_title(f"{model}: seconds a step, {seeds(runs)}", loc="left", fontsize=11, color=GREY)
    return figure


def key_with_references(study: Study) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a panel, and those of the methods that are in all of them."""
    grey: dict[str, Any] = {"color": GREY, "linewidth": 1.3}
    known = {name: style for name, style in REFERENCES.items() if name in study.methods}
    return [*METHOD_KEY, *((study.methods[name].label, {**grey, "linestyle": style}) for name, style in known.items())]


def lines(name: str, unit: str) -> Callable[[Study, Found], Figure]:
    """Small panels of a curve of training steps."""
    panel = partial(against, quantity=lambda runs: smoothed(runs, name))
    return lambda study, found: multiples(study, found, panel, unit, key_with_references(study))


def clips(ending: str, unit: str) -> Callable[[Study, Found], Figure]:
    """Small panels of clip fractions."""
    return lambda study, found: multiples(study, found, partial(clipping, ending=ending), unit, CLIP_KEY)


CUT = "An interval that leaves the panel is cut."
AVERAGED = "Each seed's curve is a moving average over steps (weight 0.7)."
PICTURES = (
    Picture(
        "study-accuracy.png",
        "Learning curves",
        f"Validation accuracy over training steps. {CUT}",
        lambda study, found: multiples(study, found, as_percent, "validation accuracy", key_with_references(study)),
    ),
    Picture(
        "study-clip-tokens.png",
        "Clipped tokens",
        f"Share of valid tokens that the loss clipped; logarithmic above 0.01%. {AVERAGED}",
        clips("", "share of tokens clipped"),
    ),
    Picture(
        "study-clip-sequences.png",
        "Responses with a clipped token",
        f"Share of responses with a clipped token; logarithmic above 0.01%. {AVERAGED}",
        clips("_sequences", "share of responses with a clipped token"),
    ),
    Picture(
        "study-entropy.png",
        "Entropy",
        f"Of the policy that sampled, mean over the tokens of a step. {AVERAGED} {CUT}",
        lines("entropy", "entropy, nats a token"),
    ),
    Picture(
        "study-gradient.png",
        "Gradient norm",
        f"Before it is clipped, mean over the mini-batches of a step. {AVERAGED} {CUT}",
        lines("grad_norm", "gradient norm"),
    ),
    Picture(
        "study-length.png",
        "Response length",
        f"Mean over the responses of a step. {AVERAGED} {CUT}",
        lines("response_length", "tokens a response"),
    ),
    Picture(
        "study-time.png",
        "Time a step",
        "By phase: median over the steps of a run, mean over seeds, without validation.",
        times,
    ),
)
